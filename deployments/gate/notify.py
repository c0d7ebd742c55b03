"""Delivery of the gate's messages: signed webhooks and command hooks, tried again until they are taken.

The signature is that of the Standard Webhooks specification (https://www.standardwebhooks.com): HMAC-SHA-256 over
`id.timestamp.body`. A receiver must expect a message more than once and tell by its id.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import logging
import os
import secrets
import signal
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path

import httpx2

from deployments.clock import Clock
from deployments.errors import GatehouseError
from deployments.gate.notice_settings import Command, NoticeSettings, Webhook
from deployments.gate.notices import Notice, Outbox
from deployments.tasks import begun

_log = logging.getLogger("gatehouse.gate.notices")

PAUSES_S = (1, 5, 30, 120, 600, 1800, 3600)
"""Between tries; the last one repeats. A tenth of each is random, so that many messages do not come at once."""

_PREFIX = "whsec_"
_GRACE_S = 5.0
_KILL_S = 2.0
_POLL_S = 1.0
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}


class BadSecret(ValueError):
    """A webhook's secret cannot be used; the text names the file and never what is in it."""


class Notifier:
    """Sends what the outbox holds. `transport` is for tests."""

    def __init__(
        self,
        outbox: Outbox,
        settings: NoticeSettings,
        clock: Clock,
        transport: httpx2.AsyncBaseTransport | None = None,
        pick: Callable[[int], int] = secrets.randbelow,
    ) -> None:
        """Read the secrets, or raise `BadSecret`: a message that nobody can verify is worse than none."""
        self._outbox = outbox
        self._settings = settings
        self._clock = clock
        self._pick = pick
        self._keys = {name: read_secret(Path(hook.secret_file)) for name, hook in settings.webhooks.items()}
        # A redirect would carry the message to somebody whom nobody configured.
        self._http = httpx2.AsyncClient(transport=transport, follow_redirects=False, trust_env=False)

    async def round(self) -> float:
        """Send what is due; seconds until it is worth to look again."""
        try:
            await self.send_due()
        except GatehouseError as error:
            _log.warning("the gate's messages could not be sent: %s", type(error).__name__)
        return _POLL_S

    async def send_due(self) -> int:
        """Try everything that is due, once; how many were taken."""
        longest = max((each.timeout_s for each in self._settings.receivers.values()), default=0.0)
        due = await self._outbox.take(self._clock.now_ms(), round((longest + _GRACE_S) * 1000))
        taken = await asyncio.gather(*(self._deliver(notice) for notice in due))
        if due:
            await self._outbox.prune(self._clock.now_ms())
        return sum(taken)

    async def close(self) -> None:
        """Give the connections back."""
        await self._http.aclose()

    async def _deliver(self, notice: Notice) -> bool:
        receiver = self._settings.receivers.get(notice.receiver)
        if receiver is None:  # no longer configured
            await self._outbox.failed(notice)
            return False
        send: Awaitable[str | None]
        if isinstance(receiver, Webhook):
            send = self._post(notice, receiver, self._keys[notice.receiver])
        else:
            send = _run(notice, receiver)
        why = await send
        if why is None:
            await self._outbox.sent(notice)
            return True
        now_ms = self._clock.now_ms()
        if now_ms - notice.created_ms >= self._settings.give_up_s * 1000:
            _log.error("message %s to '%s' has failed: %s", notice.notice_id, notice.receiver, why)
            await self._outbox.failed(notice)
            return False
        _log.warning("message %s to '%s' was not taken: %s", notice.notice_id, notice.receiver, why)
        pause_ms = PAUSES_S[min(notice.tries, len(PAUSES_S)) - 1] * 1000
        await self._outbox.again(notice, now_ms + pause_ms + self._pick(pause_ms // 10))
        return False

    async def _post(self, notice: Notice, hook: Webhook, key: bytes) -> str | None:
        """None when it was taken, else why not."""
        headers = signed_headers(key, notice.notice_id, self._clock.now_ms() // 1000, notice.body)
        try:
            async with asyncio.timeout(hook.timeout_s):
                answer = await self._http.post(hook.url, content=notice.body, headers=headers)
        except TimeoutError:
            return "it did not answer in time"
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            return f"it could not be reached ({type(error).__name__})"
        return None if answer.is_success else f"it answered with status {answer.status_code}"


async def _run(notice: Notice, hook: Command) -> str | None:
    """Run a command hook in a group of its own, so that nothing of it survives its time."""
    try:
        process = await begun(
            asyncio.create_subprocess_exec(
                *hook.argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                env=_ENVIRONMENT | {"GATEHOUSE_NOTICE_ID": notice.notice_id},
                start_new_session=True,
            ),
            _end,
        )
    except (OSError, ValueError) as error:
        return f"it could not be started ({type(error).__name__})"
    try:
        async with asyncio.timeout(hook.timeout_s):
            await process.communicate(notice.body)
    except TimeoutError:
        return "it did not end in time"
    finally:
        await _end(process)
    return None if process.returncode == 0 else f"it ended with status {process.returncode}"


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.returncode is None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_KILL_S):
                await process.wait()


def signed_headers(key: bytes, notice_id: str, at_s: int, body: bytes) -> Mapping[str, str]:
    """Headers of a message: its id, its time in seconds, and the signature of both and the body."""
    signed = b".".join((notice_id.encode(), str(at_s).encode(), body))
    signature = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return {
        "content-type": "application/json",
        "user-agent": "gatehouse",
        "webhook-id": notice_id,
        "webhook-timestamp": str(at_s),
        "webhook-signature": f"v1,{signature}",
    }


def read_secret(path: Path) -> bytes:
    """The key in a secret file, or `BadSecret`."""
    try:
        text = path.read_text(encoding="ascii").strip()
        key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (OSError, UnicodeDecodeError, binascii.Error) as error:
        raise BadSecret(f"the webhook secret {path} cannot be read ({type(error).__name__}).") from None
    if not text.startswith(_PREFIX) or not 24 <= len(key) <= 64:
        raise BadSecret(f"the webhook secret {path} is not `{_PREFIX}` and base64 of 24 to 64 bytes.")
    return key

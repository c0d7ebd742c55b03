"""How a runner talks to Gatehouse: HTTP with the key of the agent that it works for, and the pinned public keys."""

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import cast
from urllib.parse import quote

import httpx2

from deployments.ports import JsonValue

Reply = Mapping[str, JsonValue]


class Unavailable(Exception):
    """Gatehouse does not answer, or cannot say at this moment; nothing was executed."""


class Refused(Exception):
    """Gatehouse says no. The text is its own, and holds no argument."""


class Unknown(Refused):
    """There is no such thing."""


class House:
    """A small client of the runner's API. Close it with `aclose`."""

    def __init__(self, url: str, key: str, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        self.url = url
        self._http = httpx2.AsyncClient(
            base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=30.0, transport=transport
        )

    async def aclose(self) -> None:
        """Give the connections back."""
        await self._http.aclose()

    async def propose(self, tool: str, arguments: str, audience: str, session: str | None) -> Reply:
        """Propose a call; see `POST /v1/gate/calls`."""
        body: dict[str, JsonValue] = {"tool": tool, "arguments": arguments, "audience": audience}
        if session is not None:
            body["session"] = session
        return await self._ask("POST", "/v1/gate/calls", body)

    async def claim(self, tool: str, arguments: str, audience: str) -> Reply | None:
        """The permit of an approved call that left in a stream; None when there is none."""
        body: dict[str, JsonValue] = {"tool": tool, "arguments": arguments, "audience": audience}
        try:
            return await self._ask("POST", "/v1/permits/claim", body)
        except Unknown:
            return None

    async def redeem(self, permit_id: str, action_digest: str, audience: str, nonce: str) -> Reply:
        """Take the one execution; under the same nonce it can be asked for again."""
        body = {"action_digest": action_digest, "audience": audience, "nonce": nonce}
        return await self._ask("POST", f"{_permit(permit_id)}/redeem", body)

    async def report(self, permit_id: str, report: Mapping[str, JsonValue]) -> Reply:
        """Say how the execution ended."""
        return await self._ask("POST", f"{_permit(permit_id)}/report", report)

    async def take_back(self, permit_id: str, step: int, audience: str) -> Reply:
        """Propose a step of the plan of an executed call."""
        return await self._ask("POST", f"{_permit(permit_id)}/rollback", {"step": step, "audience": audience})

    async def permit(self, permit_id: str) -> Reply:
        """A permit, without its token."""
        return await self._ask("GET", _permit(permit_id))

    async def approval(self, approval_id: str) -> Reply:
        """A request for approval."""
        return await self._ask("GET", f"/v1/approvals/{quote(approval_id, safe='')}")

    async def jwks(self) -> Reply:
        """The public keys, as they are now."""
        return await self._ask("GET", "/v1/gate/jwks")

    async def _ask(self, method: str, path: str, body: Mapping[str, JsonValue] | None = None) -> Reply:
        try:
            reply = await self._http.request(method, path, json=body)
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            raise Unavailable(f"no Gatehouse answers at {self.url} ({type(error).__name__})") from None
        if reply.status_code >= 500 or reply.status_code == 429:
            raise Unavailable(_message(reply))
        if reply.status_code == 404:
            raise Unknown(_message(reply))
        if reply.status_code >= 400:
            raise Refused(_message(reply))
        try:
            found = cast(JsonValue, reply.json())
        except json.JSONDecodeError:
            raise Unavailable("the server's answer cannot be read") from None
        if not isinstance(found, dict):
            raise Unavailable("the server's answer cannot be read")
        return found


async def pinned(house: House, path: Path, *, again: bool = False) -> Reply:
    """The public keys that permits are verified with: those of the file, or fetched once and written there.

    A key that comes later is not trusted until somebody pins again (`again`): whoever could answer in the server's
    place must not be able to sign as well.
    """
    if not again:
        known = await asyncio.to_thread(_read, path)
        if known is not None:
            return known
    found = await house.jwks()
    await asyncio.to_thread(_write, path, found)
    return found


def _read(path: Path) -> Reply | None:
    try:
        found = cast(JsonValue, json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        raise Unavailable(f"the pinned keys in {path.name} cannot be read") from None
    if not isinstance(found, dict) or not isinstance(found.get("keys"), list):
        raise Unavailable(f"the pinned keys in {path.name} are no JWK set")
    return found


def _write(path: Path, found: Reply) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    temporary.write_text(json.dumps(dict(found), indent=1) + "\n", encoding="utf-8")
    temporary.chmod(0o600)
    temporary.replace(path)


def _permit(permit_id: str) -> str:
    return f"/v1/permits/{quote(permit_id, safe='')}"


def _message(reply: httpx2.Response) -> str:
    try:
        return str(reply.json()["error"]["message"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return f"the server answered {reply.status_code}"

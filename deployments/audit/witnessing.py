"""The log's side of witnessing: sending checkpoints out, taking cosignatures in, and what is blocked without them.

A round sends the newest checkpoint to every witness at once, each with the proof from the tree that this witness
knows. A cosignature counts only under the pinned key. Two things are asked of the result: how long ago enough
witnesses confirmed the log (`age_s`), and whether one of them contradicts it (`fatal`).
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import httpx2

from deployments.audit.notes import (
    BadNote,
    Signature,
    VerifierKey,
    decode_decimal,
    parse_checkpoint,
    parse_note,
    parse_witness_keys,
    verify_note,
)
from deployments.audit.settings import AuditSettings, WitnessSettings
from deployments.audit.witness import ADD_CHECKPOINT, Submission, log_id
from deployments.clock import Clock
from deployments.ports import AuditEvent

_MAX_REPLY_BYTES = 65_536
_ATTEMPTS = 3  # a witness of which we know another size says so once; more often when somebody else feeds it too
_AGREEMENTS = 5
_GATHER_S = 0.2  # after a call for an early round: its record is sealed meanwhile, and further calls join
_EXECUTING = frozenset({"tool_call.released", "permit.consumed", "permit.redeemed"})
_HARMLESS = frozenset({"R0", "R1"})
_log = logging.getLogger(__name__)


class WitnessedLog(Protocol):
    """What witnesses are asked about: the sealer. Called in threads, from one round at a time."""

    def checkpoint(self) -> bytes | None:
        """The newest checkpoint, a signed note; None before the first."""
        ...

    def consistency(self, old_size: int) -> tuple[bytes, Sequence[bytes]]:
        """The newest checkpoint, and the proof that its tree begins with the tree of `old_size` leaves."""
        ...

    def add_cosignatures(self, note: bytes, signatures: Sequence[Signature]) -> None:
        """Keep verified cosignatures under the checkpoint `note`. May be called again with more of them."""
        ...


@dataclass(frozen=True, slots=True)
class WitnessState:
    """One witness. `size`: the largest checkpoint it cosigned for this process; `age_s` since it last did.

    `problem` is why its last answer was none, `fatal` how it contradicts the log; both None while all is well.
    """

    name: str
    size: int | None
    age_s: float | None
    problem: str | None
    fatal: str | None


class _Contradiction(Exception):
    """The witness knows another history than this log."""


class _NoCosignature(Exception):
    """The witness did not confirm; that alone says nothing about the log."""


@dataclass(slots=True)
class _Witness:
    key: VerifierKey
    url: str
    known: int = 0  # size of the tree it knows, as far as we know
    size: int | None = None
    confirmed_s: float | None = None
    problem: str | None = None
    fatal: str | None = None


def newest_at(witness: WitnessSettings, origin: str, timeout_s: float) -> bytes | None:
    """The newest checkpoint of a log that one of our witnesses has, a note nobody verified; None when it has none.

    For the start, before anything is served. Blocks; `OSError` when the witness does not answer with one. Other
    witnesses than ours may not have this address: then, too, `OSError`.
    """
    url = f"{witness.url.rstrip('/')}/logs/{log_id(origin)}/checkpoint"
    data = bytearray()
    try:
        with httpx2.Client(timeout=timeout_s, trust_env=False) as client, client.stream("GET", url) as reply:
            for chunk in reply.iter_bytes():
                data += chunk
                if len(data) > _MAX_REPLY_BYTES:
                    raise OSError(f"the witness at {witness.url} answers with more than {_MAX_REPLY_BYTES} bytes")
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise OSError(f"the witness at {witness.url} does not answer ({type(error).__name__})") from error
    if reply.status_code == 404:
        return None
    if reply.status_code != 200:
        raise OSError(f"the witness at {witness.url} answered {reply.status_code}")
    return bytes(data)


class _Round:
    """One round: the checkpoint with its proofs, and the cosignatures so far. Witnesses of one size share a proof."""

    def __init__(self, log: WitnessedLog) -> None:
        self._log = log
        self._submissions: dict[int, Submission] = {}
        self._gathered: dict[str, list[Signature]] = {}
        self._lock = asyncio.Lock()

    async def newest(self) -> int | None:
        """Size of the log's newest checkpoint, now."""
        note = await asyncio.to_thread(self._log.checkpoint)
        return None if note is None else parse_checkpoint(parse_note(note).text).size

    async def prepare(self, sizes: Iterable[int]) -> None:
        """Take the proofs from all these sizes to one checkpoint: only under one note do cosignatures add up."""
        wanted = set(sizes)
        for _ in range(_AGREEMENTS):
            self._submissions.clear()
            for size in wanted:
                await self.submission(size)
            if len({found.note for found in self._submissions.values()}) <= 1:
                return

    async def submission(self, old: int) -> Submission:
        """What to send to a witness that knows `old` records."""
        async with self._lock:
            found = self._submissions.get(old)
            if found is None:
                note, proof = await asyncio.to_thread(self._log.consistency, old)
                found = self._submissions[old] = Submission(old, tuple(proof), note)
            return found

    async def add(self, text: str, note: bytes, signature: Signature) -> None:
        """Hand over what was gathered under a checkpoint: a slow witness does not keep the others' back."""
        async with self._lock:
            signatures = self._gathered.setdefault(text, [])
            signatures.append(signature)
            await asyncio.to_thread(self._log.add_cosignatures, note, tuple(signatures))


class Witnesses:
    """All witnesses of one log. Belongs to one event loop."""

    def __init__(
        self, log: WitnessedLog, settings: AuditSettings, clock: Clock, client: httpx2.AsyncClient | None = None
    ) -> None:
        """Nothing is asked yet. `BadKey` for witnesses that cannot be believed."""
        keys = parse_witness_keys(each.key for each in settings.witnesses)
        self._log = log
        self._settings = settings
        self._clock = clock
        self._client = client
        self._witnesses = [
            _Witness(key, each.url.rstrip("/")) for key, each in zip(keys, settings.witnesses, strict=True)
        ]
        self._soon = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    # --- what the sink asks --------------------------------------------------------------------------------------

    @property
    def keys(self) -> Sequence[VerifierKey]:
        """The witnesses' keys, in the order of the settings."""
        return [witness.key for witness in self._witnesses]

    @property
    def age_s(self) -> float | None:
        """Seconds since as many witnesses as the quorum had confirmed the log. None before that, or without any."""
        quorum = self._settings.quorum
        times = sorted((each.confirmed_s for each in self._witnesses if each.confirmed_s is not None), reverse=True)
        return self._clock.monotonic_s() - times[quorum - 1] if 0 < quorum <= len(times) else None

    @property
    def size(self) -> int | None:
        """How many records the quorum has confirmed since this process started."""
        quorum = self._settings.quorum
        sizes = sorted((each.size for each in self._witnesses if each.size is not None), reverse=True)
        return sizes[quorum - 1] if 0 < quorum <= len(sizes) else None

    @property
    def stale(self) -> bool:
        """True when the quorum's confirmation is too old or has not come yet. Never without witnesses."""
        age_s = self.age_s
        return self._settings.quorum > 0 and (age_s is None or age_s > self._settings.witness_max_age_s)

    @property
    def fatal(self) -> str | None:
        """How a witness contradicts the log, one sentence; None when none does.

        Stands until that witness cosigns again, which it does only for a log that has all it confirmed before.
        """
        return next((each.fatal for each in self._witnesses if each.fatal is not None), None)

    @property
    def problem(self) -> str | None:
        """Why calls of R2 and R3 are blocked, one sentence; None when they are not."""
        if self.fatal is not None or not self.stale:
            return self.fatal
        age_s = self.age_s
        since = "since the start" if age_s is None else f"for {age_s:.0f} s"
        return f"Not enough witnesses have confirmed the audit log {since}."

    @staticmethod
    def concerns(event: AuditEvent) -> bool:
        """True for an event that lets a call of R2 or R3 happen; not under the profile observe, which holds nothing.

        A class that is missing counts as R3: permits are issued for no other calls than those that need approval.
        """
        if event.name not in _EXECUTING or event.data.get("profile") == "observe":
            return False
        return event.data.get("risk") not in _HARMLESS

    def blocks(self, event: AuditEvent) -> bool:
        """True for an event that `concerns` names, while no quorum vouches for the log."""
        return self.concerns(event) and (self.stale or self.fatal is not None)

    def states(self) -> Sequence[WitnessState]:
        """What each witness last said, in the order of the settings."""
        now_s = self._clock.monotonic_s()
        return [
            WitnessState(
                name=each.key.name,
                size=each.size,
                age_s=None if each.confirmed_s is None else now_s - each.confirmed_s,
                problem=each.problem,
                fatal=each.fatal,
            )
            for each in self._witnesses
        ]

    # --- rounds --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Ask at once, then every `witness_interval_s`. Without witnesses nothing happens."""
        if self._witnesses and self._task is None:
            self._loop = asyncio.get_running_loop()
            self._task = asyncio.create_task(self._work(), name="audit-witnesses")

    def soon(self) -> None:
        """Ask without waiting for the interval: a record that others should know of was written. Any thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._soon.set)

    async def close(self) -> None:
        """Stop asking. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def ask(self) -> None:
        """One round. Rounds do not overlap."""
        if not self._witnesses:
            return
        if self._client is None:
            self._client = httpx2.AsyncClient(timeout=self._settings.witness_timeout_s, trust_env=False)
        current = _Round(self._log)
        newest = await current.newest()
        if newest is None:
            return
        await current.prepare(each.known for each in self._witnesses if each.known <= newest)
        await asyncio.gather(*(self._ask_one(self._client, current, each) for each in self._witnesses))

    async def _work(self) -> None:
        while True:
            try:
                await self.ask()
            except Exception:
                # The log's own side failed. Here it means: not confirmed, hence stale in time.
                _log.exception("the witnesses could not be asked")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.witness_interval_s):
                    await self._soon.wait()
                    await asyncio.sleep(_GATHER_S)
            self._soon.clear()

    async def _ask_one(self, client: httpx2.AsyncClient, current: _Round, witness: _Witness) -> None:
        problem = fatal = None
        started_s = self._clock.monotonic_s()
        try:
            witness.known = witness.size = await self._confirm(client, current, witness)
            witness.confirmed_s = started_s
        except _Contradiction as error:
            problem = fatal = str(error)
        except _NoCosignature as error:
            problem, fatal = str(error), witness.fatal
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError) as error:
            problem, fatal = f"Witness {witness.key.name} does not answer ({type(error).__name__}).", witness.fatal
        except Exception as error:
            # The log's own side failed: no proof, or no room for the cosignature. Not confirmed, hence stale in time.
            _log.exception("witness %s could not be asked", witness.key.name)
            problem, fatal = f"This log has nothing to send to its witnesses ({type(error).__name__}).", witness.fatal
        if fatal != witness.fatal:
            _log.error("%s", fatal or f"Witness {witness.key.name} confirms the log again.")
        elif problem != witness.problem:
            _log.warning("%s", problem or f"Witness {witness.key.name} confirms the log.")
        witness.problem, witness.fatal = problem, fatal

    async def _confirm(self, client: httpx2.AsyncClient, current: _Round, witness: _Witness) -> int:
        """The size that the witness cosigned just now. Raises what `_ask_one` turns into its state."""
        name = witness.key.name
        for _ in range(_ATTEMPTS):
            newest = await current.newest() or 0
            if witness.known > newest:
                raise _Contradiction(
                    f"Witness {name} has confirmed {witness.known} records, but this log has a checkpoint of only "
                    f"{newest}: it was rolled back, or somebody else signs with its key."
                )
            submission = await current.submission(witness.known)
            note = parse_note(submission.note)
            size = parse_checkpoint(note.text).size
            status, body = await self._post(client, witness, submission.to_bytes())
            if status == 200:
                await current.add(note.text, submission.note, self._cosignature(witness, note.text, body))
                return size
            if status == 422:
                raise _Contradiction(
                    f"Witness {name} confirmed {submission.old} records that this log of {size} does not begin with: "
                    "its history was rewritten."
                )
            known = decode_decimal(body.decode("ascii", "replace").removesuffix("\n")) if status == 409 else None
            if known == size == submission.old:
                raise _Contradiction(f"Witness {name} confirmed another history of {size} records than this log has.")
            if known is None or known == submission.old:
                raise _NoCosignature(f"Witness {name} answered {status} and did not confirm the log.")
            if witness.size is not None and known < witness.size:
                _log.error("witness %s forgot: it confirmed %d records and now knows %d", name, witness.size, known)
            witness.known = known
        raise _NoCosignature(f"Witness {name} names another size each time: somebody else asks it about this log.")

    async def _post(self, client: httpx2.AsyncClient, witness: _Witness, body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer."""
        data = bytearray()
        async with (
            asyncio.timeout(self._settings.witness_timeout_s),
            client.stream("POST", witness.url + ADD_CHECKPOINT, content=body) as reply,
        ):
            async for chunk in reply.aiter_bytes():
                data += chunk
                if len(data) > _MAX_REPLY_BYTES:
                    raise _NoCosignature(f"Witness {witness.key.name} answers with more than {_MAX_REPLY_BYTES} bytes.")
        return reply.status_code, bytes(data)

    def _cosignature(self, witness: _Witness, text: str, body: bytes) -> Signature:
        """The witness's good and recent signature under `text`, or `_NoCosignature`."""
        key = witness.key
        try:
            answer = parse_note(text.encode() + b"\n" + body)
            if answer.text != text:
                raise BadNote("an empty line is among the signatures")
            [verified] = verify_note(answer, [key])
        except BadNote as error:
            raise _NoCosignature(f"The answer of witness {key.name} is no cosignature: {error}.") from error
        # An old answer under an unchanged checkpoint is a good signature as well, but confirms nothing now.
        off_s = abs((verified.time_s or 0) - self._clock.now_ms() / 1000)
        if off_s > self._settings.witness_max_age_s:
            raise _NoCosignature(f"The cosignature of witness {key.name} is {off_s:.0f} s off this machine's clock.")
        return next(found for found in answer.signatures if (found.name, found.key_id) == (key.name, key.key_id))

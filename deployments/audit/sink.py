"""The sink as a whole: vault, writer, sealer, witnesses and export behind `ports.Audit`. Needs no Ray.

append: held back while no witness confirms -> commit to bodies -> write -> fdatasync -> acknowledge
beside: seal into the tree, sign, have it cosigned, export it, delete bodies that are too old
"""

import asyncio
import json
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from deployments.audit.checkpoints import Place
from deployments.audit.export import Exporter, ExportStatus, open_target
from deployments.audit.files import SYSTEM_DISK
from deployments.audit.merkle import leaf_hash
from deployments.audit.proofs import Trust, parse_inclusion_proof, verify_inclusion_proof
from deployments.audit.record import validate
from deployments.audit.sealer import Sealer, SealerStatus
from deployments.audit.settings import AuditSettings
from deployments.audit.signing import keys_directory, load_key
from deployments.audit.targets import DirectoryTarget, ExportFailed, ExportRefused
from deployments.audit.vault import Removal, Vault
from deployments.audit.witnessing import Witnesses, newest_at
from deployments.audit.writer import EventConflict, GroupCommit, LogWriter
from deployments.clock import Clock
from deployments.errors import AuditUnavailable, GatehouseError, NotFound, WitnessStale
from deployments.ports import (
    SYSTEM_TENANT,
    AuditCheck,
    AuditEvent,
    AuditHead,
    AuditStatus,
    Consistency,
    Proven,
    Receipt,
    RecordPage,
    StoredRecord,
    TenantId,
)

_log = logging.getLogger("gatehouse.audit")
T = TypeVar("T")

PRINCIPAL = "audit-sink"
_TIDY_S = 3_600.0
_SCANNED = 10_000  # records that one page of `records` looks at
_PROOF_S = 5.0
_LAST_EXPORT_S = 20.0
_URGENT = ("bypass.", "incident.", "key.", "tenant.", "policy.", "rollout.")


def known_places(directory: Path, settings: AuditSettings, exporter: Exporter | None) -> Mapping[str, Place]:
    """Who keeps checkpoints of the log outside of this machine, by the name that a refusal to start gives them."""
    places: dict[str, Place] = {}
    if exporter is not None and settings.export is not None:
        places[f"the export {settings.export.target}"] = exporter.newest
    key = load_key(directory, settings)
    if key is not None:
        for witness in settings.witnesses:
            ask = partial(newest_at, witness, key.name, settings.witness_timeout_s)
            places[f"the witness at {witness.url}"] = ask
    return places


class Sink:
    """Implements `ports.Audit`. Belongs to one event loop; what runs beside starts with the first call."""

    def __init__(
        self,
        directory: Path,
        settings: AuditSettings,
        clock: Clock,
        open_writer: Callable[[Sealer], LogWriter],
    ) -> None:
        """Open the log in `directory`. Blocks; raises what makes a log unusable.

        `LogLocked`, `CorruptLog`, `VaultRefused`, `BadKey`, `ExportFailed` for a target that is none, `OSError`.
        """
        self._directory = directory
        self._settings = settings
        self._clock = clock
        self._exporter = None if settings.export is None else Exporter(open_target(settings.export, clock), clock)
        self._sealer = Sealer(settings, clock, places=known_places(directory, settings, self._exporter))
        self._writer = open_writer(self._sealer)
        self._vault = Vault(directory, keys_directory(directory, settings), settings, clock)
        self._log = GroupCommit(self._writer, settings)
        self._witnesses = Witnesses(self._sealer, settings, clock)
        self._beside: list[asyncio.Task[None]] = []
        self._checking = asyncio.Lock()
        self._checked: tuple[float, AuditCheck] | None = None
        self._closed = False

    # --- writing -----------------------------------------------------------------------------------------------------

    async def append(self, events: Sequence[AuditEvent]) -> Sequence[Receipt]:
        """Receipts in order, once all events are on disk; else `AuditUnavailable`."""
        self._start()
        if any(map(self._witnesses.concerns, events)):
            self._confirmed()
        for event in events:
            validate(event)  # before a refused one has made its tenant a key
        committed = await self._commit(events)
        try:
            receipts = await self._log.append(committed)
        except EventConflict:
            receipts = await self._repeated(events)
        if any(_urgent(event) for event in events):
            self._sealer.seal_soon()
            self._witnesses.soon()
        return receipts

    def _confirmed(self) -> None:
        """Let an R2 or R3 call happen only while others can see what the log says; else `WitnessStale`."""
        problem = self._witnesses.problem or self._sealer.failure
        if problem is not None:
            raise WitnessStale(f"{problem} No R2 or R3 call leaves until that is over.")

    async def _commit(self, events: Sequence[AuditEvent]) -> Sequence[AuditEvent]:
        if not any(event.bodies for event in events):
            return events
        if self._vault.blocks(events):
            return await asyncio.to_thread(self._vault.commit, events)
        return self._vault.commit(events)

    async def _repeated(self, events: Sequence[AuditEvent]) -> Sequence[Receipt]:
        """The receipts of events that the log has, if only their bodies' form differs; else a conflict.

        Between an event and its retry the settings of bodies, or the tenant's key, may have changed.
        """
        stored = await self._log.find([event.event_id for event in events if event.bodies])
        known = {event_id: json.loads(entry.payload)["data"] for event_id, entry in stored.items()}
        try:
            if not known:
                raise EventConflict("The audit log refuses an event: its id was used for other content.")
            return await self._log.append(await asyncio.to_thread(self._vault.commit, events, known))
        except EventConflict:
            await self._conflict(events)
            raise

    async def _conflict(self, events: Sequence[AuditEvent]) -> None:
        """An event id came back with other content: a broken producer, or somebody who forges events. Say so."""
        first = events[0]
        _log.critical("an event id of %s was used for other content", first.name)
        attempt = AuditEvent(
            event_id=f"bypass.attempted:{uuid.uuid4().hex}",
            name="bypass.attempted",
            at_ms=self._clock.now_ms(),
            tenant=first.tenant,
            principal=PRINCIPAL,
            request_id=first.request_id,
            session=first.session,
            data={"kind": "event_conflict", "reason": f"an event id of {first.name} was used for other content"},
        )
        with suppress(AuditUnavailable):
            await self._log.append([attempt])

    @property
    def size(self) -> int:
        """Number of acknowledged records."""
        return self._log.head().size

    # --- reading -----------------------------------------------------------------------------------------------------

    async def head(self) -> AuditHead:
        """Where the log stands."""
        self._start()
        self._alive()
        return self._log.head()

    async def status(self) -> AuditStatus:
        """What the sink says of itself."""
        self._start()
        sealed, exported = self._sealer.status, None if self._exporter is None else self._exporter.status()
        free = await asyncio.to_thread(SYSTEM_DISK.free_bytes, self._directory)
        return AuditStatus(
            size=self.size,
            epoch=self._writer.epoch,
            origin=sealed.origin,
            queued_events=self._log.queued_events,
            unsealed=sealed.unsealed,
            unsealed_s=sealed.unsealed_s,
            checkpoint_size=sealed.checkpoint_size,
            disk_free_bytes=free,
            witnesses=len(self._settings.witnesses),
            witnessed_size=self._witnesses.size,
            witnessed_age_s=self._witnesses.age_s,
            witness_stale=self._witnesses.problem is not None,
            exported_size=None if exported is None else exported.size,
            exported_age_s=None if exported is None else exported.age_s,
            failure=self._failure(),
            problems=self._problems(sealed, exported),
            notices=sealed.notices,
        )

    def _failure(self) -> str | None:
        return self._log.failure or self._vault.failure

    def _problems(self, sealed: SealerStatus, exported: ExportStatus | None) -> tuple[str, ...]:
        """What an operator should look at, although records are acknowledged."""
        witnesses = (state.problem for state in self._witnesses.states())
        found = (sealed.failure, *sealed.copies, *witnesses, None if exported is None else exported.failure)
        return tuple(each for each in found if each is not None)

    def _alive(self) -> None:
        failure = self._failure()
        if failure is not None:
            raise AuditUnavailable(failure)

    async def checkpoint(self) -> bytes:
        """The newest checkpoint."""
        self._start()
        note = self._sealer.checkpoint()
        if note is None:
            raise NotFound("The audit log has no checkpoint yet.")
        return note

    async def verifier_keys(self) -> Sequence[str]:
        """The log's key and its witnesses'."""
        self._start()
        return [str(key) for key in self._sealer.verifier_keys()]

    async def tile(self, path: str) -> bytes:
        """A tile or bundle of entries, as stored."""
        self._start()
        data = await asyncio.to_thread(self._sealer.tile, path)
        if data is None:
            raise NotFound("The audit log has no such tile.")
        return data

    async def prove(self, index: int) -> Proven:
        """The inclusion proof of a record."""
        self._start()
        if not self._closed:
            await self._log.settled()
        self._sealer.seal_soon()
        return await asyncio.to_thread(self._sealer.prove, index, _PROOF_S)

    async def consistency(self, old_size: int) -> Consistency:
        """From an older tree to the newest checkpoint's."""
        self._start()
        note, hashes = await asyncio.to_thread(self._sealer.consistency, old_size)
        return Consistency(hashes, note)

    async def find(self, event_id: str) -> StoredRecord:
        """The record of an event by its id."""
        self._start()
        entry = (await self._log.find([event_id])).get(event_id)
        if entry is None:
            raise NotFound("The audit log has no record of this event.")
        return StoredRecord(Receipt(entry.index, entry.leaf), entry.payload)

    async def records(self, begin: int, limit: int, tenant: TenantId | None) -> RecordPage:
        """Records in order, as they lie on the disk."""
        self._start()
        return await asyncio.to_thread(self._records, begin, limit, tenant)

    def _records(self, begin: int, limit: int, tenant: TenantId | None) -> RecordPage:
        size = self.size
        end = min(size, begin + _SCANNED)
        found: list[StoredRecord] = []
        try:
            for entry in self._writer.read(begin, end):
                if len(found) == limit:
                    return RecordPage(tuple(found), entry.index)
                if tenant is None or json.loads(entry.payload)["tenant"] == tenant:
                    found.append(StoredRecord(Receipt(entry.index, entry.leaf), entry.payload))
        except OSError as error:
            raise AuditUnavailable("The audit log cannot be read.") from error
        return RecordPage(tuple(found), end if end < size else None)

    # --- the canary --------------------------------------------------------------------------------------------------

    async def check(self) -> AuditCheck:
        """Append a canary, read it back, verify its proof; at most one every `canary_interval_s`."""
        self._start()
        async with self._checking:
            now_s = self._clock.monotonic_s()
            if self._checked is not None and now_s - self._checked[0] < self._settings.canary_interval_s:
                return self._checked[1]
            check = await self._canary()
            self._checked = now_s, check
            return check

    async def _canary(self) -> AuditCheck:
        at_ms, started_s = self._clock.now_ms(), self._clock.monotonic_s()
        event = AuditEvent(f"audit.canary:{uuid.uuid4().hex}", "audit.canary", at_ms, SYSTEM_TENANT, PRINCIPAL)
        index = size = problem = None
        try:
            [receipt] = await self.append([event])
            index = receipt.index
            await asyncio.to_thread(self._read_back, event, receipt)
            size = await asyncio.to_thread(self._proven, await self.prove(index), receipt)
        except (GatehouseError, OSError, ValueError) as error:
            problem = str(error) or type(error).__name__
        took_ms = round((self._clock.monotonic_s() - started_s) * 1000)
        return AuditCheck(index, size, problem, at_ms, took_ms)

    def _read_back(self, event: AuditEvent, receipt: Receipt) -> None:
        """`AuditUnavailable` unless the disk has at the receipt's place what was appended."""
        found = next(self._writer.read(receipt.index, receipt.index + 1), None)
        if found is None or leaf_hash(found.payload) != receipt.leaf_hash:
            raise AuditUnavailable("The canary's record was read back with other bytes than were acknowledged.")
        if json.loads(found.payload)["event_id"] != event.event_id:
            raise AuditUnavailable("Another record lies at the canary's place.")

    def _proven(self, proven: Proven, receipt: Receipt) -> int:
        """Size of the checkpoint under which the receipt is proven, or `BadProof`."""
        key = self._sealer.verifier_keys()[0]
        proof = parse_inclusion_proof(proven.proof)
        trusted = verify_inclusion_proof(proof, receipt.index, receipt.leaf_hash, Trust(key.name, (key,)))
        return trusted.checkpoint.size

    # --- bodies ------------------------------------------------------------------------------------------------------

    async def shred(self, tenant: TenantId, actor: str, change_id: str, reason: str) -> Receipt:
        """Record `tenant.shredded`, then destroy the tenant's keys. What is interrupted is finished later."""
        self._start()
        removal = await asyncio.to_thread(self._vault.begin_shred, tenant, actor, change_id, reason)
        return (await self._remove(removal))[0]

    async def _remove(self, removal: Removal) -> Sequence[Receipt]:
        receipts = await self._log.append(removal.events)
        await asyncio.to_thread(self._vault.finish, removal)
        self._sealer.seal_soon()
        return receipts

    async def _tidy(self) -> None:
        """Finish what was interrupted, and delete bodies that are too old."""
        for removal in await asyncio.to_thread(self._vault.pending):
            await self._remove(removal)
        expired = await asyncio.to_thread(self._vault.begin_prune)
        if expired is not None:
            await self._remove(expired)

    # --- beside ------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._beside or self._closed:
            return
        self._witnesses.start()
        self._beside.append(asyncio.create_task(_every(_TIDY_S, "retention", self._tidy), name="audit-retention"))
        if self._settings.export is not None:
            interval_s = self._settings.export.interval_s
            self._beside.append(asyncio.create_task(_every(interval_s, "export", self._export), name="audit-export"))

    async def _export(self) -> None:
        await asyncio.to_thread(self._export_once)

    def _export_once(self) -> None:
        if self._exporter is not None and self._sealer.pin() is not None:
            self._exporter.run_once(DirectoryTarget(self._directory))

    async def check_health(self) -> None:
        """Raise when nothing can be acknowledged any more: a fresh process must recover the log."""
        self._start()
        self._alive()

    async def close(self) -> None:
        """Write what waits, sign it, export it, and give up the lock. Idempotent."""
        if self._closed:
            return
        self._closed = True
        for task in self._beside:
            task.cancel()
        await asyncio.gather(*self._beside, return_exceptions=True)
        await self._witnesses.close()
        self._sealer.release()  # the writer may wait for a tree that a broken disk holds up
        await self._log.close()
        await asyncio.to_thread(self._sealer.close)
        if self._exporter is not None:
            with suppress(ExportFailed, ExportRefused, TimeoutError, OSError):
                async with asyncio.timeout(_LAST_EXPORT_S):
                    await self._export()


async def _every(interval_s: float, what: str, work: Callable[[], Awaitable[None]]) -> None:
    """Do `work` now and then every so often. A failure is its own to show; here it is logged when it changes."""
    before: str | None = None
    while True:
        problem = None
        try:
            await work()
        except (ExportFailed, ExportRefused, GatehouseError, OSError) as error:
            problem = f"{type(error).__name__}: {error}"
        except Exception as error:
            _log.exception("%s of the audit log failed", what)
            problem = type(error).__name__
        if problem is not None and problem != before:
            _log.error("%s of the audit log: %s", what, problem)
        before = problem
        await asyncio.sleep(interval_s)


def _urgent(event: AuditEvent) -> bool:
    """True for what others should see soon."""
    return event.name.startswith(_URGENT) or (
        event.name in {"tool_call.released", "permit.consumed"} and event.data.get("risk") in {"R2", "R3"}
    )

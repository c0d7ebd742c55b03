"""`InMemoryAudit`: the audit port without a disk. It checks the schema as strictly as the real sink."""

from collections.abc import Sequence
from dataclasses import replace

from deployments.audit.chain import GENESIS, leaf_hash, link
from deployments.audit.merkle import consistency_proof
from deployments.audit.notes import ED25519, Checkpoint, Note, format_checkpoint, generate_key, sign
from deployments.audit.proofs import prove_inclusion
from deployments.audit.record import encode, validate
from deployments.audit.tiles import BadTile, TileFile, TileReader, TileWriter, parse_path
from deployments.errors import AuditRefused, AuditUnavailable, NotFound
from deployments.ports import (
    AuditCheck,
    AuditEvent,
    AuditHead,
    AuditStatus,
    Consistency,
    JsonValue,
    Proven,
    Receipt,
    RecordPage,
    StoredRecord,
    TenantId,
)

ORIGIN = "gatehouse.test/log"


class _Tiles:
    """Tiles in a dictionary."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def read(self, path: str) -> bytes | None:
        parse_path(path)
        return self.files.get(path)

    def write(self, path: str, data: bytes) -> None:
        self.files[path] = data

    def take(self, files: Sequence[TileFile]) -> None:
        self.files.update(files)


class InMemoryAudit:
    """Implements `ports.Audit`. `events` is what was acknowledged, in order; set `down` to make every call fail.

    Every append is followed by a signed checkpoint, so proofs are real and there at once. `told` is what `status`
    answers beside the sizes, `checked` what `check` does.
    """

    def __init__(self) -> None:
        self.events: list[AuditEvent] = []
        self.down = False
        self._places: dict[str, int] = {}
        self._leaves: list[bytes] = []
        self._head = GENESIS
        self._entries: list[bytes] = []
        self._tiles = _Tiles()
        self._tree = TileWriter()
        self.key = generate_key(ORIGIN, ED25519)
        self.told = AuditStatus(
            size=0, epoch=1, origin=ORIGIN, queued_events=0, unsealed=0, unsealed_s=0.0, checkpoint_size=0,
            disk_free_bytes=10**10,
        )  # fmt: skip
        self.problem: str | None = None

    async def append(self, events: Sequence[AuditEvent]) -> Sequence[Receipt]:
        if self.down:
            raise AuditUnavailable("The audit log is down.")
        for event in events:
            validate(event)
            known = self._places.get(event.event_id)
            if known is not None and self.events[known] != event:
                raise AuditRefused("The audit log refuses an event id with other content than before.")
        receipts: list[Receipt] = []
        for event in events:
            index = self._places.get(event.event_id)
            if index is None:
                index = len(self.events)
                self._places[event.event_id] = index
                self.events.append(event)
                self._entries.append(encode(event, index, "test"))
                self._leaves.append(leaf_hash(self._entries[-1]))
                self._tiles.take(self._tree.append(self._entries[-1], self._leaves[-1]))
                self._head = link(self._head, self._leaves[-1])
            receipts.append(Receipt(index, self._leaves[index]))
        self._tiles.take(self._tree.partials())
        return receipts

    async def head(self) -> AuditHead:
        if self.down:
            raise AuditUnavailable("The audit log is down.")
        return AuditHead(size=len(self.events), head_hash=self._head.hex())

    async def status(self) -> AuditStatus:
        if self.down:
            raise AuditUnavailable("The audit log is down.")
        return replace(self.told, size=len(self.events), checkpoint_size=len(self.events))

    async def check(self) -> AuditCheck:
        if self.down:
            raise AuditUnavailable("The audit log is down.")
        return AuditCheck(len(self.events), len(self.events), self.problem, 1_700_000_000_000, 3)

    async def checkpoint(self) -> bytes:
        if self.down:
            raise AuditUnavailable("The audit log is down.")
        if not self.events:
            raise NotFound("There is no checkpoint yet.")
        text = format_checkpoint(Checkpoint(ORIGIN, len(self.events), self._tree.root()))
        return Note(text, (sign(text, self.key),)).to_bytes()

    async def verifier_keys(self) -> Sequence[str]:
        return [str(self.key.verifier)]

    async def tile(self, path: str) -> bytes:
        try:
            found = self._tiles.read(path)
        except BadTile:
            found = None
        if found is None:
            raise NotFound("There is no such tile.")
        return found

    async def prove(self, index: int) -> Proven:
        if self.down:
            raise AuditUnavailable("The audit log is down.")
        if not 0 <= index < len(self.events):
            raise NotFound("The log has no record of this index.")
        hash_at = TileReader(self._tiles).at(len(self.events))
        proof = prove_inclusion(index, self._leaves[index], await self.checkpoint(), hash_at)
        return Proven(Receipt(index, self._leaves[index]), proof.to_bytes())

    async def consistency(self, old_size: int) -> Consistency:
        if not 0 <= old_size <= len(self.events):
            raise NotFound("The newest checkpoint is smaller.")
        hashes = consistency_proof(old_size, len(self.events), TileReader(self._tiles).at(len(self.events)))
        return Consistency(tuple(hashes), await self.checkpoint())

    async def records(self, begin: int, limit: int, tenant: TenantId | None) -> RecordPage:
        if self.down:
            raise AuditUnavailable("The audit log is down.")
        found: list[StoredRecord] = []
        for index in range(begin, len(self.events)):
            if len(found) == limit:
                return RecordPage(tuple(found), index)
            if tenant in (None, self.events[index].tenant):
                found.append(StoredRecord(Receipt(index, self._leaves[index]), self._entries[index]))
        return RecordPage(tuple(found), None)

    async def find(self, event_id: str) -> StoredRecord:
        if self.down:
            raise AuditUnavailable("The audit log is down.")
        index = self._places.get(event_id)
        if index is None:
            raise NotFound("The log has no such event.")
        return StoredRecord(Receipt(index, self._leaves[index]), self._entries[index])

    async def shred(self, tenant: TenantId, actor: str, change_id: str, reason: str) -> Receipt:
        data: dict[str, JsonValue] = {"key_ids": ["dek_1"], "change_id": change_id}
        event = AuditEvent(f"shred:{len(self.events)}", "tenant.shredded", 1, tenant, actor, data=data)
        return (await self.append([event]))[0]

    def names(self) -> list[str]:
        """Names of the acknowledged events, in order."""
        return [event.name for event in self.events]

    def named(self, name: str) -> list[AuditEvent]:
        """The acknowledged events called `name`, in order."""
        return [event for event in self.events if event.name == name]

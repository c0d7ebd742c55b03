"""Logs and exports made byte by byte, without the writer: what honest and dishonest operators can leave behind."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deployments.audit.canonical import canonical
from deployments.audit.chain import GENESIS, leaf_hash, link
from deployments.audit.head import write_head
from deployments.audit.notes import (
    COSIGNATURE_V1,
    ED25519,
    Checkpoint,
    Note,
    SignerKey,
    cosign,
    format_checkpoint,
    generate_key,
    sign,
)
from deployments.audit.record import encode
from deployments.audit.segment import SEGMENTS_DIR, frame, segment_name
from deployments.audit.tiles import DirectoryStore, TileWriter
from deployments.ports import SYSTEM_TENANT, AuditEvent, AuditHead, JsonValue
from tests.unit.audit.logs import D1, D2, D3, Flow, event

ORIGIN = "gatehouse.test/flows"
KEY = generate_key(ORIGIN, ED25519, lambda count: b"\x01" * count)
WITNESSES = tuple(
    generate_key(f"witness.test/{number}", COSIGNATURE_V1, lambda count, number=number: bytes([number]) * count)
    for number in (2, 3)
)
KEYS_TEXT = "".join(f"{key.verifier}\n" for key in (KEY, *WITNESSES))


# --- events ------------------------------------------------------------------------------------------------------


def made(name: str, event_id: str, data: Mapping[str, JsonValue], at_ms: int = 1, tenant: str = "acme") -> AuditEvent:
    """`logs.event`, with the fields in a mapping."""
    return replace(event(name, event_id, at_ms, tenant), data=dict(data))


class GatedFlow(Flow):
    """`Flow` with what a real gate records besides: the plan before the votes, and what the call did."""

    def requested(self, **changes: JsonValue) -> AuditEvent:
        fields: dict[str, JsonValue] = {
            "risk": self.risk,
            "votes_required": {"R2": 1, "R3": 2}.get(self.risk, 0),
            "requester_person": "rita",
            **changes,
        }
        return made("approval.requested", f"{self.approval}:approval.requested", {**self.granted().data, **fields})

    def planned(self) -> AuditEvent:
        return self.step("approval.planned", change_id="CHG-1", rollback_digest=D2)

    def reported(self, **changes: JsonValue) -> AuditEvent:
        fields: dict[str, JsonValue] = {
            "gate_call_id": self.call,
            "outcome": "succeeded",
            "source": "conversation",
            **changes,
        }
        return made("action.reported", f"{self.call}:reported", fields)

    def whole(self, voters: Sequence[str] = ("alice",)) -> list[AuditEvent]:
        return [
            self.proposed(),
            self.classified(),
            self.requested(),
            self.held(),
            self.planned(),
            *(self.voted(voter) for voter in voters),
            self.granted(),
            self.consumed(),
            self.released(),
            self.reported(),
        ]


def opened(epoch: int = 1, size: int = 0, head: bytes = GENESIS) -> AuditEvent:
    return AuditEvent(
        event_id=f"log.opened:{epoch}",
        name="log.opened",
        at_ms=1,
        tenant=SYSTEM_TENANT,
        principal="audit-sink",
        data={"epoch": epoch, "size": size, "head_hash": head.hex(), "torn_bytes": 0},
    )


def announced(digest: str = D3, previous: str | None = None, at_ms: int = 1) -> AuditEvent:
    data: dict[str, JsonValue] = {"policy_digest": digest, "rule_set": "shipped"}
    if previous is not None:
        data["previous_digest"] = previous
    return made("policy.changed", f"policy:{digest}:{previous}", data, at_ms, "system")


def entries_of(events: Iterable[AuditEvent]) -> list[bytes]:
    """Canonical records with places from 0 on."""
    return [encode(item, place, "test") for place, item in enumerate(events)]


def edited(entry: bytes, change: Callable[[dict[str, JsonValue]], object]) -> bytes:
    """A record with something else in it, canonical again."""
    record: dict[str, JsonValue] = json.loads(entry)
    change(record)
    return canonical(record)


# --- files -------------------------------------------------------------------------------------------------------


def head_of(entries: Iterable[bytes]) -> AuditHead:
    head, size = GENESIS, 0
    for entry in entries:
        head, size = link(head, leaf_hash(entry)), size + 1
    return AuditHead(size, head.hex())


def frames(entries: Sequence[bytes], begin: int = 0) -> bytes:
    """The frames of the entries from `begin` on, as they follow those before."""
    head, found = GENESIS, b""
    for place, entry in enumerate(entries):
        if place >= begin:
            found += frame(place, head, entry)
        head = link(head, leaf_hash(entry))
    return found


def lay_segments(directory: Path, entries: Sequence[bytes], begins: Sequence[tuple[int, int]] = ((0, 1),)) -> None:
    """Segments that begin at (place, epoch), and the recorded head of all of them."""
    folder = directory / SEGMENTS_DIR
    folder.mkdir(parents=True, exist_ok=True)
    ends = [place for place, _ in begins[1:]] + [len(entries)]
    before = 0
    for (begin, epoch), end in zip(begins, ends, strict=True):
        (folder / segment_name(begin, epoch, before)).write_bytes(frames(entries[:end], begin))
        before = epoch
    write_head(directory, head_of(entries))


@dataclass(frozen=True)
class Tree:
    """What a sealer leaves beside a log: notes by size."""

    notes: Mapping[int, bytes]

    @property
    def newest(self) -> bytes:
        return self.notes[max(self.notes)]


def note_of(
    size: int, root: bytes, key: SignerKey = KEY, witnesses: Sequence[SignerKey] = (), origin: str = ORIGIN
) -> bytes:
    text = format_checkpoint(Checkpoint(origin, size, root))
    return Note(text, (sign(text, key), *(cosign(text, witness, 1_700_000_000) for witness in witnesses))).to_bytes()


def lay_tiles(
    directory: Path, entries: Sequence[bytes], sizes: Iterable[int], witnesses: Sequence[SignerKey] = ()
) -> Tree:
    """Tiles and signed notes for these sizes: `checkpoint` is the newest, its keys are beside it."""
    directory.mkdir(parents=True, exist_ok=True)
    store, writer, notes = DirectoryStore(directory), TileWriter(), dict[int, bytes]()
    wanted = set(sizes)
    for size in range(max(wanted) + 1):
        files = writer.append(entries[size - 1], leaf_hash(entries[size - 1])) if size else []
        if size in wanted:
            files += writer.partials()
            notes[size] = note_of(size, writer.root(), witnesses=witnesses)
        for path, data in files:
            store.write(path, data)
    tree = Tree(notes)
    (directory / "checkpoint").write_bytes(tree.newest)
    (directory / "log.vkey").write_text(KEYS_TEXT)
    return tree


def lay_export(
    directory: Path, entries: Sequence[bytes], sizes: Iterable[int], witnesses: Sequence[SignerKey] = ()
) -> Tree:
    """What the exporter leaves: tiles, one note for each size, the newest as `checkpoint`."""
    tree = lay_tiles(directory, entries, sizes, witnesses)
    folder = directory / "checkpoints"
    folder.mkdir(exist_ok=True)
    for size, note in tree.notes.items():
        (folder / f"{size:020d}").write_bytes(note)
    return tree


def history_line(note: bytes, epoch: int = 1) -> str:
    return json.dumps({"at_ms": 1, "epoch": epoch, "note": note.decode()}, ensure_ascii=False) + "\n"


def route(number: int) -> AuditEvent:
    return event(
        "route.decided",
        f"route:{number}",
        route_id=f"rt_{number}",
        model="demo-20b",
        tier="20b",
        effort="medium",
        reason="default",
        policy_digest=D1,
    )


def honest(routes: int = 0) -> list[AuditEvent]:
    """An opened log with an announced policy, two approved calls, and `routes` routes."""
    second = GatedFlow("R3", "call_2", "apr_2", D1)
    flows = [*GatedFlow().whole(), *second.whole(["alice", "bob"])]
    return [opened(), announced(), *flows, *(route(number) for number in range(routes))]

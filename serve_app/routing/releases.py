"""How far a snapshot of one's own may act: nowhere (shadow), on a slice of the sessions, on all; and the way back.

A folder of releases:

```
learned.yaml              the `difficulty.learned` block that puts in force what is released
active-<n>.snapshot       what the server reads from step n on, which is one into shadow; never used for another one
journal.jsonl             every step that was taken; its last line is what is in force
<digest>.snapshot, .keys  every snapshot that ever was in force, and the groups that it was learned from
<digest>.<n>.json         the evidence for step n: the gate, the values, the difference to what was in force before
```

Each step up needs turns that were judged since the step before, and the gate of the head. It acts when the settings
are deployed: a file that the server reads is never given something that acts more.

A step back needs nothing, and acts at once: replicas look at their file every few seconds, so it is replaced, whatever
mode their settings still have. Where nothing acted before, by a *muted* copy, which says the same of every turn and
proposes nothing.

The seam: a controller that shifts traffic between revisions of models would take `mode` and `slice` from the last line
of the journal, as an operator takes them from `learned.yaml` today.
"""

import fcntl
import hashlib
import json
import os
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deployments.ports import JsonValue
from router.calibrate import Curve
from router.snapshot import STRONG, WEAK, Snapshot, parse, serialise
from serve_app.routing.learned_traffic import Turns, Worth, judged_by_traffic, proposed, said_by, worth
from serve_app.routing.promotion import Promotion
from serve_app.routing.traffic import TrafficRow
from serve_app.routing.train import unpacked_keys

SETTINGS: Final = "learned.yaml"
JOURNAL: Final = "journal.jsonl"
_DIGITS: Final = 6
_KEPT: Final = "[0-9a-f]" * 64 + ".snapshot"

To: TypeAlias = Literal["shadow", "slice", "apply"]


class ReleaseRefused(Exception):
    """A step that must not be taken; the message says why."""


class Step(BaseModel):
    """One line of the journal: what was done, and what has been in force since.

    `number` counts from 1. `file` holds the snapshot `digest`, and so does `emptied`, the file of what was taken back
    (empty for other steps). `slice` is the share of the sessions in [0, 1]. `muted`: the snapshot proposes nothing.
    `evidence` is the SHA-256 of the step's evidence, empty for a step back.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    number: Annotated[int, Field(ge=1)]
    at_ms: Annotated[int, Field(ge=0)]
    by: Annotated[str, Field(min_length=1, max_length=128)]
    step: Literal["shadow", "slice", "apply", "rollback"]
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    file: Annotated[str, Field(pattern=r"^active-[0-9]+\.snapshot$")]
    emptied: Annotated[str, Field(pattern=r"^(active-[0-9]+\.snapshot)?$")]
    mode: Literal["shadow", "apply"]
    slice: Annotated[float, Field(ge=0, le=1)]
    muted: bool
    evidence: str

    @property
    def stage(self) -> To:
        """How far what is in force acts."""
        if self.mode == "shadow":
            return "shadow"
        return "apply" if self.slice == 1.0 else "slice"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for a step."""

    gate: Promotion
    worth: Worth
    changes: Mapping[str, JsonValue]


class Releases:
    """One folder of releases. Methods that change it take its lock, and first finish what a crash has interrupted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def steps(self) -> tuple[Step, ...]:
        """The journal, oldest first, without a last line that was cut off; `ReleaseRefused` when it is damaged."""
        try:
            whole, _, _ = (self._folder / JOURNAL).read_bytes().rpartition(b"\n")
        except FileNotFoundError:
            return ()
        try:
            return tuple(Step.model_validate_json(line) for line in whole.splitlines())
        except ValidationError:
            raise ReleaseRefused(f"{self._folder / JOURNAL} is damaged: restore it from a copy.") from None

    def snapshots(self) -> dict[str, Snapshot]:
        """Every snapshot that ever was in force, by digest."""
        found = (parse(file.read_bytes()) for file in sorted(self._folder.glob(_KEPT)))
        return {snapshot.digest: snapshot for snapshot in found}

    def release(
        self,
        data: bytes,
        keys: bytes,
        rows: Sequence[TrafficRow],
        to: To,
        share: float,
        budget: float,
        by: str,
        now_ms: int,
    ) -> Step:
        """Take a step with the snapshot in `data`, learned from the groups in `keys`.

        `share` is the slice of the sessions for the step `slice`, `budget` the share of 120b at which its value is
        estimated. Shadow may always be entered; every step up needs the evidence of `rows`. Raises `ReleaseRefused`;
        `DataRefused` where the rows cannot judge it, `SnapshotError` for bytes that are none, `OSError`.
        """
        snapshot = parse(data)
        with self._locked():
            steps = self.steps()
            now = steps[-1] if steps else None
            _check_order(now, snapshot.digest, to, share)
            since = 0 if now is None or to == "shadow" else now.at_ms
            fresh = [row for row in rows if row.at_ms > since]
            document: dict[str, JsonValue] = {"step": to, "digest": snapshot.digest, "judged_since_ms": since}
            if to == "shadow":
                document["changes"] = dict(self._changes(now, snapshot, Turns.of(fresh), budget))
            else:
                found = self._evidence(now, snapshot, fresh, unpacked_keys(keys), budget)
                document |= {
                    "gate": _plain(asdict(found.gate)),
                    "worth": _plain(asdict(found.worth)),
                    "changes": dict(found.changes),
                }
            number = len(steps) + 1
            text = (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()
            self._put(f"{snapshot.digest}.snapshot", data)
            self._put(f"{snapshot.digest}.keys", keys)
            self._put(f"{snapshot.digest}.{number}.json", text)
            return self._append(
                Step(
                    number=number,
                    at_ms=now_ms,
                    by=by,
                    step=to,
                    digest=snapshot.digest,
                    file=f"active-{number}.snapshot" if now is None or to == "shadow" else now.file,
                    emptied="",
                    mode="shadow" if to == "shadow" else "apply",
                    slice={"shadow": 0.0, "slice": share, "apply": 1.0}[to],
                    muted=False,
                    evidence=hashlib.sha256(text).hexdigest(),
                )
            )

    def rollback(self, by: str, now_ms: int) -> Step:
        """Back to the last other snapshot that acted, as far as it did; else to a muted copy of the present one.

        `ReleaseRefused` when nothing was ever released.
        """
        with self._locked():
            steps = self.steps()
            if not steps:
                raise ReleaseRefused("nothing was ever released here.")
            now = steps[-1]
            known = self._before(steps)
            if known is None:
                muted = mute(parse((self._folder / f"{now.digest}.snapshot").read_bytes()))
                digest, file, mode, share = hashlib.sha256(muted).hexdigest(), now.file, "shadow", 0.0
                self._put(f"{digest}.snapshot", muted)
                self._put(f"{digest}.keys", (self._folder / f"{now.digest}.keys").read_bytes())
            else:
                digest, file, mode, share = known.digest, known.file, known.mode, known.slice
            return self._append(
                Step(
                    number=len(steps) + 1,
                    at_ms=now_ms,
                    by=by,
                    step="rollback",
                    digest=digest,
                    file=file,
                    emptied=now.file,
                    mode=mode,
                    slice=share,
                    muted=known is None,
                    evidence="",
                )
            )

    def _before(self, steps: Sequence[Step]) -> Step | None:
        """What acted before the present snapshot did, and was not itself taken back."""
        gone = {steps[-1].digest}
        for earlier, later in zip(reversed(steps[:-1]), reversed(steps), strict=False):
            if later.step == "rollback":
                gone.add(earlier.digest)
            if earlier.digest not in gone and earlier.mode == "apply" and not earlier.muted:
                return earlier
        return None

    def _evidence(
        self, now: Step | None, snapshot: Snapshot, rows: Sequence[TrafficRow], known: frozenset[str], budget: float
    ) -> Evidence:
        gate = judged_by_traffic(snapshot, rows, known)
        if gate.acts is None:
            raise ReleaseRefused("the gate refuses the head: " + "; ".join(gate.verdicts[0].why))
        estimated = worth(snapshot, rows, known, budget)
        active = estimated.leads[0].lead
        if active.high < 0.0:
            raise ReleaseRefused(
                f"it is worse than what is active: {active.value:+.3f} [{active.low:+.3f}, {active.high:+.3f}]"
            )
        return Evidence(gate, estimated, self._changes(now, snapshot, Turns.of(rows, 0.0, known), budget))

    def _changes(self, now: Step | None, snapshot: Snapshot, turns: Turns, budget: float) -> Mapping[str, JsonValue]:
        before = None if now is None else parse((self._folder / f"{now.digest}.snapshot").read_bytes())
        return changes(before, snapshot, turns, budget)

    @contextmanager
    def _locked(self) -> Generator[None]:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ReleaseRefused(f"somebody else is at work in {self._folder}.") from None
            if steps := self.steps():
                self._enforce(steps[-1])
            yield
        finally:
            os.close(descriptor)

    def _append(self, step: Step) -> Step:
        """The journal first: what it says is in force even if this process ends before the files agree."""
        journal = self._folder / JOURNAL
        descriptor = os.open(journal, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            end = journal.read_bytes().rfind(b"\n") + 1
            os.ftruncate(descriptor, end)
            os.lseek(descriptor, end, os.SEEK_SET)
            os.write(descriptor, step.model_dump_json().encode() + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._enforce(step)
        return step

    def _enforce(self, step: Step) -> None:
        """Make what the server reads agree with a line of the journal."""
        data = (self._folder / f"{step.digest}.snapshot").read_bytes()
        if hashlib.sha256(data).hexdigest() != step.digest:
            raise ReleaseRefused(f"{step.digest}.snapshot is not what its name says: restore it from a copy.")
        for name in sorted({step.file, step.emptied} - {""}):
            self._put(name, data)
        self._put(SETTINGS, settings_of(step, self._folder.resolve() / step.file).encode())

    def _put(self, name: str, data: bytes) -> None:
        file, part = self._folder / name, self._folder / f".{name}.part"
        if file.is_file() and file.read_bytes() == data:
            return
        with part.open("wb") as target:
            target.write(data)
            target.flush()
            os.fsync(target.fileno())
        part.replace(file)


def settings_of(step: Step, snapshot: Path) -> str:
    """The block of a Serve config file that puts a step in force, YAML."""
    lines = ["learned:", f"  snapshot: {json.dumps(str(snapshot))}", f"  mode: {step.mode}"]
    if step.mode == "apply":
        lines.append(f"  slice: {step.slice:g}")
    return "\n".join(lines) + "\n"


def mute(snapshot: Snapshot) -> bytes:
    """A snapshot that says the same of every turn and is sure of no gain, so that it proposes nothing."""
    return serialise(
        snapshot.title,
        snapshot.bits,
        snapshot.scales,
        snapshot.heads,
        snapshot.seen,
        gain_low=Curve((0.0,), (-1.0,), slope=0.0),
    )


def changes(before: Snapshot | None, after: Snapshot, turns: Turns, budget: float) -> dict[str, JsonValue]:
    """What is different: the features' part in the gain, and the turns that would go elsewhere at a share of 120b.

    Without turns, or with such that the one before cannot judge, there are only the features.
    """
    old, new = {} if before is None else _gain_weights(before), _gain_weights(after)
    names = sorted({*old, *new}, key=lambda name: (-abs(new.get(name, 0.0) - old.get(name, 0.0)), name))
    found: dict[str, JsonValue] = {
        "before": None if before is None else before.digest,
        "after": after.digest,
        "gain_weights": {
            name: [round(old.get(name, 0.0), _DIGITS), round(new.get(name, 0.0), _DIGITS)] for name in names
        },
    }
    comparable = before is None or before.gain_low is not None
    if not turns.rows or not comparable:
        return found
    rises = proposed(said_by(after, turns), budget) > 0
    rose = rises & False if before is None else proposed(said_by(before, turns), budget) > 0
    tasks = [row.task for row in turns.rows]
    found["turns"] = {
        "compared": len(tasks),
        "both_20b": int((~rises & ~rose).sum()),
        "both_120b": int((rises & rose).sum()),
        "up": dict(sorted(Counter(task for task, up in zip(tasks, rises & ~rose, strict=True) if up).items())),
        "down": dict(sorted(Counter(task for task, down in zip(tasks, rose & ~rises, strict=True) if down).items())),
    }
    return found


def _gain_weights(snapshot: Snapshot) -> dict[str, float]:
    """What a deviation more of each feature adds to the logit of 120b over that of 20b; empty without two heads."""
    weak, strong = snapshot.head(WEAK), snapshot.head(STRONG)
    if weak is None or strong is None:
        return {}
    return {name: high - low for name, low, high in zip(snapshot.names, weak.weights, strong.weights, strict=True)}


def _check_order(now: Step | None, digest: str, to: To, share: float) -> None:
    if to == "shadow":
        return
    if now is None or now.digest != digest or now.muted:
        raise ReleaseRefused("a snapshot enters in shadow first.")
    if to == "slice" and not now.slice < share < 1.0:
        raise ReleaseRefused(f"a slice grows: it is {now.slice:g} now, and less than 1.")
    if to == "apply" and now.stage != "slice":
        raise ReleaseRefused("a snapshot acts on a slice before it acts everywhere.")


def _plain(value: object) -> JsonValue:
    """Figures as JSON; one that is not a number is null."""
    return json.loads(json.dumps(value, allow_nan=True), parse_constant=lambda _: None)

"""Rollouts: values that cross the port of the rollout controller. Times are milliseconds since the epoch, UTC.

An artefact is what is rolled out, a revision its digest, a rollout the way of one revision to all of the traffic.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol


class Kind(StrEnum):
    """What is rolled out: weights, an engine's settings, a snapshot of the router, a policy bundle, a prompt."""

    MODEL = "model"
    ENGINE = "engine"
    ROUTER = "router"
    POLICY = "policy"
    PROMPT = "prompt"


OF_ENGINES = frozenset({Kind.MODEL, Kind.ENGINE})
"""Kinds whose revisions are engines of their own."""

OF_MODELS = OF_ENGINES | {Kind.PROMPT}
"""Kinds whose target is a model."""


class Family(StrEnum):
    """What a session is given one revision of: an engine of a model, the router's snapshot, the policy, a prompt."""

    ENGINE = "engine"
    ROUTER = "router"
    POLICY = "policy"
    PROMPT = "prompt"


FAMILIES: Final[Mapping[Kind, Family]] = {
    Kind.MODEL: Family.ENGINE,
    Kind.ENGINE: Family.ENGINE,
    Kind.ROUTER: Family.ROUTER,
    Kind.POLICY: Family.POLICY,
    Kind.PROMPT: Family.PROMPT,
}

Target = tuple[Family, str]
"""What has revisions: a family and a name in it."""

ROUTER_TARGET: Final = "router"
POLICY_TARGET: Final = "policy"
"""The names of what there is one of."""

UNNAMED: Final = "configured"
"""What the configuration's snapshot and policy are called where it gives them no revision."""

NO_PROMPT: Final = "none"
"""The revision of a model's prompt where it has none."""


@dataclass(frozen=True, slots=True)
class FileSum:
    """A file of an artefact: its path below the artefact's, with `/`; its size in bytes; SHA-256 in hex."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Artefact:
    """What is rolled out. `target`: whose it is, the name of a model, a bundle or a template.

    `path` is where its files lie ("" when it has none), and is no part of the revision: a copy is the same revision.
    `settings` is an object as JSON text. `signature`: Ed25519 over the revision in base64, "" for none. `change_id`:
    the change under which it is registered, "" for none; no part of the revision, for that changes nothing in
    production.
    """

    kind: Kind
    target: str
    path: str = ""
    files: tuple[FileSum, ...] = ()
    settings: str = "{}"
    signature: str = ""
    change_id: str = ""


_DOMAIN: Final = "gatehouse artefact v1"


def file_sum(name: str, data: bytes) -> FileSum:
    """What an artefact says of a file of this name and content."""
    return FileSum(name, len(data), hashlib.sha256(data).hexdigest())


def revision_of_files(
    kind: Kind, target: str, files: Sequence[FileSum], settings: Mapping[str, object] | None = None
) -> str:
    """The revision of an artefact, SHA-256 in hex: over kind, target, settings and every file's path, size and digest.

    Where the files lie does not matter, nor does their order.
    """
    said = {
        "domain": _DOMAIN,
        "kind": kind.value,
        "target": target,
        "settings": settings or {},
        "files": sorted([each.path, each.size, each.sha256] for each in files),
    }
    text = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


class Metric(StrEnum):
    """What is counted of a revision. Each is a number of trials, and how many of them were bad.

    `ERROR`: requests that the engine failed. `TTFT`, `E2E`: requests slower than the objective, to the first byte and
    to the end. `VERIFIER`: answers that failed their checks. `FALSE_HOLD`: tool calls that were held and then approved
    unchanged. `FEEDBACK`: turns that somebody said were bad.
    """

    ERROR = "error"
    TTFT = "ttft"
    E2E = "e2e"
    VERIFIER = "verifier"
    FALSE_HOLD = "false_hold"
    FEEDBACK = "feedback"


@dataclass(frozen=True, slots=True)
class Bound:
    """How much worse a candidate's share of bad trials may be than the baseline's, as a difference in [0, 1).

    Shown to be worse by more than `slack`, it is rolled back. It goes on only when it is shown to be worse by less than
    `tolerance`, with `min_count` trials at least; unless the bound is not `required` and there are fewer.
    """

    metric: Metric
    slack: float
    tolerance: float
    min_count: int
    required: bool = True


BOUNDS = (
    Bound(Metric.ERROR, 0.01, 0.05, 100),
    Bound(Metric.TTFT, 0.03, 0.12, 100),
    Bound(Metric.E2E, 0.03, 0.12, 100),
    Bound(Metric.VERIFIER, 0.03, 0.12, 50, required=False),
    Bound(Metric.FALSE_HOLD, 0.03, 0.12, 50, required=False),
    Bound(Metric.FEEDBACK, 0.05, 0.20, 20, required=False),
)


@dataclass(frozen=True, slots=True)
class Rules:
    """When a rollout goes on, stops or goes back. `ttft_ms` and `e2e_ms` are the objectives that requests are held to.

    `min_s`: the shortest stay in a slice. `deadline_s`: after so long in one without enough evidence it holds.
    `warm_s`: how long a revision may take to load. `window_s`: how long the last known good is kept warm when the new
    one has everything. `false_alarm`: how probable it is at most that a revision that is not worse is rolled back by
    itself. `design_effect`: requests that tell no more than one independent one, because they are of one session.
    `drift`: added to each slack in the window, where the baseline's figures are those of before.
    """

    ttft_ms: int = 2_000
    e2e_ms: int = 60_000
    min_s: int = 600
    deadline_s: int = 86_400
    warm_s: int = 3_600
    window_s: int = 3_600
    false_alarm: float = 0.01
    design_effect: float = 2.0
    drift: float = 0.02
    bounds: tuple[Bound, ...] = BOUNDS


MOST_CASES: Final = 10_000
"""More an evaluation suite does not have, so that so many of them are all."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A rollout as it was asked for. `shares` are percentages that grow, the last one 100; `shadow`: 0 % comes first.

    In the shadow stage a candidate sees requests and answers none. `eval_cases`: how many cases of the evaluation suite
    both revisions are asked before there is any traffic, `MOST_CASES` for all, None as the settings say. Of a rollout
    that has begun it is the number that was found then; None: it has no such stage.
    """

    rollout_id: str
    kind: Kind
    target: str
    revision: str
    previous_revision: str
    change_id: str
    shares: tuple[int, ...] = (5, 25, 100)
    shadow: bool = False
    rules: Rules = field(default_factory=Rules)
    eval_cases: int | None = None


class State(StrEnum):
    """Where a rollout is. `PROPOSED`: asked for, not yet on record. `WATCH`: all traffic, and the way back is warm.

    `EVAL`: both revisions are asked the same cases, and nobody waits for the answers.
    """

    PROPOSED = "proposed"
    REGISTERED = "registered"
    WARMING = "warming"
    SMOKE = "smoke"
    EVAL = "eval"
    SHADOW = "shadow"
    SLICE = "slice"
    WATCH = "watch"
    FINISHED = "finished"
    ROLLED_BACK = "rolled_back"

    @property
    def final(self) -> bool:
        """True when nothing comes after it."""
        return self in {State.FINISHED, State.ROLLED_BACK}


class Move(StrEnum):
    """What a step does."""

    START = "start"
    ADVANCE = "advance"
    HOLD = "hold"
    RESUME = "resume"
    ROLL_BACK = "roll_back"
    FINISH = "finish"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a rollout is after its step `number`. `share` in percent; `held`: it does not go on by itself."""

    number: int = 0
    state: State = State.PROPOSED
    share: int = 0
    held: bool = False
    since_ms: int = 0


@dataclass(frozen=True, slots=True)
class Draft:
    """What somebody wants of a rollout. `by`: a key id, or `system`. `evidence` is JSON text.

    `to`: the share that an advance leads to; with more than that it was made already.
    """

    move: Move
    by: str
    change_id: str
    reason: str
    evidence: str = "{}"
    to: int | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """A transition. `record` is its place in the audit log; None: it is not on record, and not in force.

    `told` are further fields of that record, as JSON text: written down with the step, so that whoever records it
    records the same.
    """

    draft: Draft
    after: Standing
    at_ms: int
    record: int | None = None
    told: str = "{}"


@dataclass(frozen=True, slots=True)
class Rollout:
    """A rollout as it stands. `pending`: a step that is not in force yet. `wanted`: a rollback that must come."""

    plan: Plan
    standing: Standing
    pending: Step | None = None
    wanted: Draft | None = None

    @property
    def share(self) -> int:
        """What of the traffic the candidate gets at this moment, in percent.

        What is to be taken away is gone as soon as it is written down; what is given waits for its record.
        """
        return 0 if self.wanted is not None else self.standing.share


@dataclass(frozen=True, slots=True)
class Slice:
    """How the traffic of a target is split at this moment, and what its requests are held to.

    `since_ms`: when the stage began. `shadow`: the candidate sees requests and answers none.
    """

    rollout_id: str
    kind: Kind
    target: str
    revision: str
    previous_revision: str
    share: int
    ttft_ms: int = 2_000
    e2e_ms: int = 60_000
    since_ms: int = 0
    shadow: bool = False


@dataclass(frozen=True, slots=True)
class Count:
    """Trials of one revision in one stage (its share in percent; 0 is the shadow), and how many of them were bad."""

    rollout_id: str
    share: int
    candidate: bool
    metric: Metric
    trials: int
    bad: int


class Rollouts(Protocol):
    """The rollout controller. Whatever changes something names a change, and may be repeated."""

    async def register(self, artefact: Artefact, actor: str) -> str:
        """Remember an artefact; its revision. `InvalidRequest` when its files or signature are not as it says."""
        ...

    async def start(self, plan: Plan, actor: str) -> Rollout:
        """Begin a rollout; the present one when it began before. `InvalidRequest` when it cannot begin."""
        ...

    async def move(self, rollout_id: str, draft: Draft) -> Rollout:
        """Advance, hold, resume or roll back by hand. `NotFound`; `InvalidRequest` for what cannot be done now."""
        ...

    async def get(self, rollout_id: str) -> Rollout:
        """A rollout, or `NotFound`."""
        ...

    async def rollouts(self) -> Sequence[Rollout]:
        """All rollouts, the newest first; 100 at most."""
        ...

    async def history(self, rollout_id: str) -> Sequence[Step]:
        """The steps of a rollout, the oldest first, or `NotFound`."""
        ...

    async def slices(self) -> Sequence[Slice]:
        """How traffic is split now; nothing of targets that have no rollout."""
        ...

    async def observe(self, counts: Sequence[Count]) -> None:
        """Add what was seen. What is of another stage than the present one is left out."""
        ...

    async def ready(self) -> bool:
        """True when the store answers."""
        ...

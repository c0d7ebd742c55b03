"""Settings of the difficulty router's deployment; the policy itself is a document of its own."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deployments.rollouts import UNNAMED


class CandidateSnapshot(BaseModel):
    """A second snapshot, which decides for the sessions that a rollout gives it and for nobody else."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    snapshot: str = Field(min_length=1)
    """Its file; read once, when the router starts."""

    revision: str = Field(pattern=r"^[0-9a-f]{64}$")
    """What `gatehouse rollout register --kind router --target router` prints of it."""


class LearnedSettings(BaseModel):
    """A snapshot that was trained on one's own labels (`gatehouse router train`), and how far it may act."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    snapshot: str | None = None
    """Its file; None: the shipped one, which orders turns by difficulty and never acts."""

    revision: str = Field(default=UNNAMED, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$")
    """What rollouts and records call it. 64 hex digits are held against the file: another content is refused."""

    mode: Literal["shadow", "apply"] = "shadow"
    """`shadow` computes and records what it would have decided; `apply` lets it decide within the budget."""

    slice: float = Field(default=1.0, gt=0, le=1)
    """Share of the sessions on which `apply` acts; the others stay in shadow."""

    candidate: CandidateSnapshot | None = None
    """A snapshot that is rolled out; where it acts it acts as the settings above say."""

    @model_validator(mode="after")
    def _a_candidate_decides(self) -> "LearnedSettings":
        if self.candidate is None:
            return self
        if self.mode != "apply":
            raise ValueError("a `candidate` needs mode apply: what only watches makes no difference to any session")
        if self.candidate.revision == self.revision:
            raise ValueError("candidate.revision must be another one than `revision`")
        return self


class DifficultySettings(BaseModel):
    """How much the router remembers, and under which names it is asked to choose."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    auto_models: Annotated[tuple[str, ...], Field(strict=False, min_length=1)] = ("auto",)
    """Model names that mean "choose for me"."""

    sessions: int = Field(default=100_000, ge=1, le=10_000_000)
    """Sessions remembered per replica; the one used least recently is forgotten first. The store keeps them all."""

    idle_release_s: int = Field(default=1_800, ge=1, le=86_400)
    """A session idle for longer starts anew: no failures, no latch."""

    explained_routes: int = Field(default=10_000, ge=1, le=1_000_000)
    """Decisions per replica that `GET /v1/route/{id}` explains without asking the store."""

    explained_days: int = Field(default=7, ge=1, le=366)
    """Days for which decisions are kept, explained, and open to feedback."""

    read_timeout_s: float = Field(default=0.05, gt=0, le=5)
    """How long a turn waits for what the store knows of its session; then what is remembered here has to do."""

    feedback_per_minute: int = Field(default=120, ge=1, le=1_000_000)
    """Verdicts that one key may give a minute."""

    sweep_s: float = Field(default=60.0, gt=0, le=3_600)
    """Seconds between removals of what is too old."""

    reload_s: float = Field(default=5.0, gt=0, le=3_600)
    """Seconds between looks at the files of policy and snapshot, and between meetings of the replicas' budgets.

    A file that is refused changes nothing, and is said in the log."""

    spill_up: bool = False
    """Let the larger tier, while it is free, take turns that could do without it when the base tier is down or full.

    Off: they wait, or the engine refuses them. Never above a ceiling, a deny, or a budget that is spent.
    """

    learned: LearnedSettings = LearnedSettings()
    """The learned part."""

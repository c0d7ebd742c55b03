"""How much reasoning a turn deserves, and which comes first after a failure: more effort, or the larger model.

The order follows from the published figures of gpt-oss (arXiv 2508.10925, tables 3 and 7; the bug-fixing row
reproduced in arXiv 2604.00362). They are figures of closed tasks, not of this installation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from router.features import Features
from router.lexicon import Group
from router.signals.collect import Signals
from router.types import Effort, Risk, TaskType

_SHORT_WORDS: Final = 200
_RELEASE_TOKENS: Final = 16_000


class Benchmark(StrEnum):
    """What the two models were measured on at every effort."""

    AIME_2024 = "aime_2024"
    CODEFORCES = "codeforces"
    BUG_FIXING = "bug_fixing"
    AIDER_POLYGLOT = "aider_polyglot"
    TAU_RETAIL = "tau_retail"
    TAU_AIRLINE = "tau_airline"
    GPQA_DIAMOND = "gpqa_diamond"
    MMLU = "mmlu"
    MMMLU = "mmmlu"
    HEALTHBENCH_HARD = "healthbench_hard"


@dataclass(frozen=True, slots=True)
class Measured:
    """The results at low, medium and high effort; percent, or Elo for Codeforces."""

    base: tuple[float, float, float]
    strong: tuple[float, float, float]

    @property
    def effort_first(self) -> bool:
        """True when more effort on the base model gives at least what the strong model gives at medium effort."""
        return self.base[2] >= self.strong[1]


MEASURED: Final[Mapping[Benchmark, Measured]] = MappingProxyType(
    {
        Benchmark.AIME_2024: Measured((42.1, 80.0, 92.1), (56.3, 80.4, 95.8)),
        Benchmark.CODEFORCES: Measured((1366, 1998, 2230), (1595, 2205, 2463)),
        Benchmark.BUG_FIXING: Measured((37.4, 53.2, 60.7), (47.9, 52.6, 62.4)),
        Benchmark.AIDER_POLYGLOT: Measured((16.6, 26.6, 34.2), (24.0, 34.2, 44.4)),
        Benchmark.TAU_RETAIL: Measured((35.0, 47.3, 54.8), (49.4, 62.0, 67.8)),
        Benchmark.TAU_AIRLINE: Measured((32.0, 42.6, 38.0), (42.6, 48.6, 49.2)),
        Benchmark.GPQA_DIAMOND: Measured((56.8, 66.0, 71.5), (67.1, 73.1, 80.1)),
        Benchmark.MMLU: Measured((80.4, 84.0, 85.3), (85.9, 88.0, 90.0)),
        Benchmark.MMMLU: Measured((67.0, 73.5, 75.7), (74.1, 79.3, 81.3)),
        Benchmark.HEALTHBENCH_HARD: Measured((9.0, 12.9, 10.8), (22.8, 26.9, 30.0)),
    }
)


def nearest_benchmark(signals: Signals) -> Benchmark | None:
    """What was measured and is most like the turn's task; None for a diagnosis, whose order the policy fixes."""
    match signals.task:
        case TaskType.INCIDENT_DIAGNOSIS:
            return None
        case TaskType.MATHEMATICS:
            return Benchmark.AIME_2024
        case TaskType.CODE_GENERATION | TaskType.CODE_REVIEW:
            return Benchmark.BUG_FIXING
        case TaskType.GENERAL if signals.proof_or_algorithm:
            return Benchmark.CODEFORCES
        case TaskType.CHAT | TaskType.EXTRACTION | TaskType.GENERAL:
            if signals.tools_offered:
                return Benchmark.TAU_RETAIL
            return Benchmark.MMLU if signals.language in {"en", "other"} else Benchmark.MMMLU


def effort_first(signals: Signals) -> bool | None:
    """Does more effort come before the larger model after a failure? For code and mathematics, not for tools or facts.

    None for a diagnosis: the policy says when it moves on, and nothing else does.
    """
    benchmark = nearest_benchmark(signals)
    return None if benchmark is None else MEASURED[benchmark].effort_first


def effort_for(signals: Signals, features: Features) -> tuple[Effort, str | None]:
    """The effort of a turn by its task, and the reason code where it is not the default medium.

    An incident stays at medium: there the next step is the larger model, not more effort. So do dialogues over tools
    and policy: on 20b more effort helps them little (Tau-Bench Retail), or hurts (Airline).
    """
    match signals.task:
        case TaskType.MATHEMATICS:
            return Effort.HIGH, "effort_mathematics"
        case TaskType.CODE_GENERATION | TaskType.GENERAL if signals.proof_or_algorithm:
            return Effort.HIGH, "effort_reasoning"
        case TaskType.CHAT | TaskType.EXTRACTION if _is_light(signals, features):
            return Effort.LOW, f"effort_short_{signals.task.value}"
        case _:
            return Effort.MEDIUM, None


def kept_effort(wanted: Effort, last: Effort | None, context_tokens: int) -> Effort | None:
    """The effort that a session keeps instead of the wanted one, None where it may change.

    Effort stands at the top of the prompt: another one voids the prefix cache. Rising is worth it. Leaving high pays
    while reading the conversation again costs less than the thinking it saves; going back to low never does. The limit
    of 16,000 tokens is configured, not measured.
    """
    if last is None or wanted.rank >= last.rank:
        return None
    if wanted is Effort.LOW:
        return Effort.MEDIUM if context_tokens <= _RELEASE_TOKENS else last
    return last if context_tokens > _RELEASE_TOKENS else None


def _is_light(signals: Signals, features: Features) -> bool:
    return (
        signals.risk is Risk.R0
        and features.words <= _SHORT_WORDS
        and features.count(Group.REASONING) + features.count(Group.PROOF) + features.count(Group.ALGORITHM) == 0
        and not signals.agent.newest
    )

"""How much reasoning a turn deserves, before any wish or rule: effort is the first axis for reasoning and code.

gpt-oss model card, tables 3 and 7: 20b at high beats 120b at medium on repository-level bug fixing (60.7 against 52.6)
and on mathematics (92.1 against 80.4); for dialogues over tools and policy more effort does not help 20b.
"""

from typing import Final

from router.features import Features
from router.lexicon import Group
from router.signals.collect import Signals
from router.types import Effort, Risk, TaskType

_SHORT_WORDS: Final = 200


def effort_for(signals: Signals, features: Features) -> tuple[Effort, str | None]:
    """The effort of a turn by its task, and the reason code where it is not the default medium.

    An incident stays at medium: there the next step is the larger model, not more effort.
    """
    match signals.task:
        case TaskType.MATHEMATICS:
            return Effort.HIGH, "effort_mathematics"
        case TaskType.CODE_GENERATION if signals.failures_on_base > 0:
            return Effort.HIGH, "effort_after_failure"
        case TaskType.CODE_GENERATION | TaskType.GENERAL if signals.proof_or_algorithm:
            return Effort.HIGH, "effort_reasoning"
        case TaskType.CHAT | TaskType.EXTRACTION if _is_light(signals, features):
            return Effort.LOW, f"effort_short_{signals.task.value}"
        case _:
            return Effort.MEDIUM, None


def _is_light(signals: Signals, features: Features) -> bool:
    return (
        signals.risk is Risk.R0
        and features.words <= _SHORT_WORDS
        and features.count(Group.REASONING) + features.count(Group.PROOF) + features.count(Group.ALGORITHM) == 0
        and not signals.agent.failed
    )

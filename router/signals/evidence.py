"""What counts as evidence that an attempt failed, and how much: one hard piece, or soft ones that agree.

The weights are in `docs/adr/0006-routing-policy-v1.md`; 1 is what a rule calls failed.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class EvidenceKind(StrEnum):
    """What showed that an attempt was not good."""

    VERIFIER_FAILED = "verifier_failed"
    TOOL_ERROR = "tool_error"
    TEST_FAILED = "test_failed"
    SCHEMA_FAILED = "schema_failed"
    PARSE_FAILED = "parse_failed"
    EMPTY = "empty"
    LOOPING = "looping"
    TRUNCATED = "truncated"
    USER_SAW_IT_FAIL = "user_saw_it_fail"
    USER_SAYS_WRONG = "user_says_wrong"
    RE_ASKED = "re_asked"
    HEDGED = "hedged"


WEIGHTS: Final[Mapping[EvidenceKind, float]] = MappingProxyType(
    {
        EvidenceKind.VERIFIER_FAILED: 1.0,
        EvidenceKind.TOOL_ERROR: 1.0,
        EvidenceKind.TEST_FAILED: 1.0,
        EvidenceKind.SCHEMA_FAILED: 1.0,
        EvidenceKind.PARSE_FAILED: 1.0,
        EvidenceKind.EMPTY: 1.0,
        EvidenceKind.LOOPING: 1.0,
        EvidenceKind.TRUNCATED: 1.0,
        # Somebody tried it: that is a test, and the user reports its result.
        EvidenceKind.USER_SAW_IT_FAIL: 1.0,
        EvidenceKind.USER_SAYS_WRONG: 0.8,
        EvidenceKind.RE_ASKED: 0.4,
        EvidenceKind.HEDGED: 0.3,
    }
)
FAILED: Final = 1.0
"""From this sum on an attempt has failed."""

_ROUNDING: Final = 1e-9  # 0.3 + 0.4 + 0.3 is less than 1.0 in floating point


def is_failure(weight: float, failed: float = FAILED) -> bool:
    """True when evidence of this sum is a failure; `failed` is the sum from which on it is one."""
    return weight >= failed - _ROUNDING

"""What a replica remembers of the calls that it has judged, to understand their results. Bounded; lost at a restart."""

import re
from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum, auto

from deployments.ports import AuditEvent, Refusal, Risk

CAPACITY = 10_000
_PARTS = re.compile(r"[^0-9A-Za-z]+")
_TELLING = 8


class Fate(Enum):
    """What became of a call when it was judged; DONE: nothing more is to be recorded."""

    PERMITTED = auto()
    RELEASED = auto()
    REFUSED = auto()
    DONE = auto()


@dataclass(frozen=True, slots=True)
class Judged:
    """One call. `refusal` is there for REFUSED; `report` once it was made but not acknowledged."""

    fate: Fate
    gate_call_id: str = ""
    tool: str = ""
    risk: Risk = Risk.R0
    action_digest: str | None = None
    change_id: str | None = None
    policy_digest: str | None = None
    refusal: Refusal | None = None
    report: AuditEvent | None = None


DONE = Judged(Fate.DONE)


class Recall:
    """The newest verdict of each call id of a session; the oldest are forgotten."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._judged: OrderedDict[str, Judged] = OrderedDict()

    def put(self, key: str, judged: Judged) -> None:
        """Remember; an id that comes again means the newer call."""
        self._judged[key] = judged
        self._judged.move_to_end(key)
        while len(self._judged) > self._capacity:
            self._judged.popitem(last=False)

    def get(self, key: str) -> Judged | None:
        """What is remembered of a call, if anything is."""
        return self._judged.get(key)

    def settle(self, key: str, judged: Judged) -> None:
        """Nothing more is to be recorded of this call; of a newer one under the same id there is."""
        if self._judged.get(key) is judged:
            self._judged[key] = DONE


def telling(call_id: str) -> bool:
    """False for ids that count (`call_0_1`, `functions.shell:0`): another turn of the session has the same one.

    Where the replica has not judged the call itself, such an id says nothing.
    """
    return len(_PARTS.split(call_id)[-1]) >= _TELLING

"""A candidate bundle beside the live one: it judges every call and decides none.

The live judgement is made first and is never changed. The candidate's follows in a thread of its own and reads with the
same reader, which remembers how the call's text was parsed, so that it costs no second parser. Whoever asked waits
`PATIENCE_S` for it at most: what takes longer, fails, or comes while earlier ones are still at work is counted and
left out. One limit remains: a pattern that takes seconds to match holds Python's lock meanwhile, in whichever thread.
"""

import logging
import threading
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field, replace
from typing import Any

from deployments.gate.circumstances import PLAIN, Circumstances
from deployments.gate.classify import Classification, Classifier, Shadow
from deployments.gate.policy import Bundle
from deployments.gate.shell.reader import ShellReader
from deployments.gate.tables import Outcome
from deployments.ports import GateProfile, JsonValue

_log = logging.getLogger("gatehouse.gate")

PATIENCE_S = 0.05


@dataclass(frozen=True, slots=True)
class ShadowCounts:
    """What a shadow bundle has made of calls since this classifier was made.

    `pairs` counts by live and candidate outcome, `changed` those of them with another class or outcome; `missed` are
    calls that the candidate did not judge, by why: `failed`, `late`, `busy`, `absent` (it could not be loaded).
    `policy_digest` is the candidate's, None where there is none.
    """

    policy_digest: str | None
    pairs: Mapping[tuple[Outcome, Outcome], int] = field(default_factory=dict[tuple[Outcome, Outcome], int])
    changed: int = 0
    missed: Mapping[str, int] = field(default_factory=dict[str, int])


class ShadowedClassifier(Classifier):
    """Judges by `bundle`, and says in `Classification.shadow` what `candidate` would have made of the call.

    `candidate` is None for one that could not be loaded: the live bundle must not depend on it.
    """

    def __init__(
        self,
        bundle: Bundle,
        candidate: Bundle | None,
        reader: ShellReader | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        reader = reader or ShellReader()
        super().__init__(bundle, reader)
        self._given = (bundle, candidate, reader, patience_s)
        self._shared = reader
        self._patience_s = patience_s
        self._candidate = None if candidate is None else self.make_candidate(candidate, reader)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="shadow-bundle")
        self._turn = threading.Semaphore()
        self._lock = threading.Lock()
        self._pairs: Counter[tuple[Outcome, Outcome]] = Counter()
        self._missed: Counter[str] = Counter()
        self._changed = 0

    def __reduce__(self) -> tuple[Any, ...]:
        """It travels without its thread and its counts."""
        return type(self), self._given

    @staticmethod
    def make_candidate(candidate: Bundle, reader: ShellReader) -> Classifier:
        """The classifier of the candidate."""
        return Classifier(candidate, reader)

    @property
    def counts(self) -> ShadowCounts:
        """What it has made of calls so far."""
        with self._lock:
            digest = None if self._candidate is None else self._candidate.policy_digest
            return ShadowCounts(digest, dict(self._pairs), self._changed, dict(self._missed))

    def classify(
        self,
        tool: str,
        arguments: str | Mapping[str, JsonValue],
        profile: GateProfile = GateProfile.OPS,
        circumstances: Circumstances = PLAIN,
    ) -> Classification:
        """The live judgement, with the candidate's beside it where that was made in time."""
        live = super().classify(tool, arguments, profile, circumstances)
        return self.compared(live, tool, arguments, profile, circumstances)

    def beside(self, bundle: Bundle) -> Classifier:
        """The classifier of another live bundle: the same candidate judges its calls, too, counted with all others."""
        return _Beside(bundle, self._shared, self)

    def compared(
        self,
        live: Classification,
        tool: str,
        arguments: str | Mapping[str, JsonValue],
        profile: GateProfile,
        circumstances: Circumstances,
    ) -> Classification:
        """A judgement of a live bundle, with the candidate's beside it."""
        try:
            beside = self._ask(tool, arguments, profile, circumstances)
        except Exception as error:
            _log.warning("the shadow bundle failed with %s", type(error).__name__)
            self._miss("failed")
            return live
        if beside is None:
            return live
        with self._lock:
            self._pairs[live.outcome, beside.outcome] += 1
            self._changed += (live.outcome, live.risk) != (beside.outcome, beside.risk)
        return replace(live, shadow=Shadow(beside.policy_digest, beside.risk, beside.outcome))

    def _ask(self, *call: Any) -> Classification | None:
        """The candidate's judgement; None when it is not there in time, which is counted."""
        if self._candidate is None:
            self._miss("absent")
            return None
        if not self._turn.acquire(timeout=self._patience_s):
            self._miss("busy")
            return None
        try:
            asked: Future[Classification] = self._pool.submit(self._candidate.classify, *call)
        except BaseException:
            self._turn.release()
            raise
        asked.add_done_callback(lambda _: self._turn.release())
        try:
            return asked.result(self._patience_s)
        except FutureTimeout:
            if asked.done():  # the candidate itself said so
                raise
            self._miss("late")
            return None

    def _miss(self, why: str) -> None:
        with self._lock:
            self._missed[why] += 1


class _Beside(Classifier):
    """Judges by a live bundle that is not the configured one, and shares the shadow of that one."""

    def __init__(self, bundle: Bundle, reader: ShellReader, shadowed: ShadowedClassifier) -> None:
        super().__init__(bundle, reader)
        self._shadowed = shadowed

    def classify(
        self,
        tool: str,
        arguments: str | Mapping[str, JsonValue],
        profile: GateProfile = GateProfile.OPS,
        circumstances: Circumstances = PLAIN,
    ) -> Classification:
        """The live judgement, with the shadow's beside it where that was made in time."""
        live = super().classify(tool, arguments, profile, circumstances)
        return self._shadowed.compared(live, tool, arguments, profile, circumstances)

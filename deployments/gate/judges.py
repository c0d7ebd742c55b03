"""Whose bundle judges a call: that of its session.

While a policy is rolled out two bundles are live. The context of a turn names the revision that judges its session,
and all calls of the turn are judged by that one. A revision that nobody here knows is no reason to be mild: then both
judge, and the stricter word counts.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol, cast

from deployments.gate.circumstances import PLAIN, Circumstances
from deployments.gate.classify import Classification, Classifier
from deployments.gate.policy import Bundle
from deployments.gate.tables import OUTCOME_ORDER
from deployments.ports import GateProfile, JsonValue
from deployments.rollouts import UNNAMED


class Judging(Protocol):
    """What judges calls; a `Classifier` is one."""

    @property
    def bundle(self) -> Bundle:
        """The bundle it judges by."""
        ...

    @property
    def bundle_name(self) -> str:
        """Its name, for the record."""
        ...

    def classify(
        self,
        tool: str,
        arguments: str | Mapping[str, JsonValue],
        profile: GateProfile = GateProfile.OPS,
        circumstances: Circumstances = PLAIN,
    ) -> Classification:
        """The class of a call."""
        ...

    def unavailable(
        self, tool: str, arguments: str, profile: GateProfile, why: str, circumstances: Circumstances = PLAIN
    ) -> Classification:
        """The class of a call that could not be classified."""
        ...


class Judges:
    """The classifiers of all bundles that are live. `configured` is the one of whoever no rollout gives to another."""

    def __init__(
        self, configured: Classifier, revision: str = UNNAMED, candidates: Mapping[str, Classifier] | None = None
    ) -> None:
        """`revision` is what the configured bundle is called; `candidates` are by revision."""
        self._configured = configured
        self._revision = revision
        self._candidates = candidates or {}
        self._known: Mapping[str, Classifier] = {"": configured, revision: configured, **self._candidates}

    @property
    def configured(self) -> Classifier:
        """The classifier of the configured bundle."""
        return self._configured

    @property
    def policy_digest(self) -> str:
        """SHA-256 hex of the configured bundle."""
        return self._configured.policy_digest

    @property
    def revision(self) -> str:
        """What the configured bundle is called."""
        return self._revision

    @property
    def candidates(self) -> tuple[str, ...]:
        """The revisions that are live besides."""
        return tuple(self._candidates)

    def of(self, policy: str) -> Judging:
        """What judges by the revision `policy`, "" for the configured one."""
        found = self._known.get(policy)
        if found is None and self._candidates:
            return _Stricter((self._configured, *self._candidates.values()))
        return found or self._configured

    def named(self, policy: str) -> str | None:
        """The revision that `of` judges by, None for one that nobody here knows."""
        if policy in self._candidates:
            return policy
        return "" if policy in self._known else None


def judges_of(classifier: object) -> Judges:
    """What an ingress replica was made with, as judges: they themselves, or the one classifier that there is."""
    return classifier if isinstance(classifier, Judges) else Judges(cast(Classifier, classifier))


class _Stricter:
    """Judges by several bundles, and takes the strictest word of each kind; of equal ones the first."""

    def __init__(self, classifiers: tuple[Classifier, ...]) -> None:
        self._classifiers = classifiers

    @property
    def bundle(self) -> Bundle:
        """The configured bundle."""
        return self._classifiers[0].bundle

    @property
    def bundle_name(self) -> str:
        """The names of all."""
        return " and ".join(dict.fromkeys(each.bundle_name for each in self._classifiers))

    def classify(
        self,
        tool: str,
        arguments: str | Mapping[str, JsonValue],
        profile: GateProfile = GateProfile.OPS,
        circumstances: Circumstances = PLAIN,
    ) -> Classification:
        """The strictest outcome, with the highest class."""
        return _strictest([each.classify(tool, arguments, profile, circumstances) for each in self._classifiers])

    def unavailable(
        self, tool: str, arguments: str, profile: GateProfile, why: str, circumstances: Circumstances = PLAIN
    ) -> Classification:
        """The same of a call that could not be classified."""
        return _strictest(
            [each.unavailable(tool, arguments, profile, why, circumstances) for each in self._classifiers]
        )


def _strictest(found: list[Classification]) -> Classification:
    worst = max(found, key=lambda each: (OUTCOME_ORDER.index(each.outcome), each.risk.rank))
    risk = max((each.risk for each in found), key=lambda each: each.rank)
    if risk is worst.risk:
        return worst
    return replace(worst, risk=risk, covered=False, standing=None)

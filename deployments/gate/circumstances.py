"""What is known of a call besides its words: each of these can raise its class, and nothing lowers it.

How much each raises is data in the bundle (`raises`), under two laws that `raise_faults` holds: a raise only ever
raises, and it keeps the order of the classes. Under the data lies a floor that no bundle can leave out: what was
repaired from malformed output is a guess at what was meant, and at least R2.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from pydantic import Field

from deployments.gate.grammar import Strict
from deployments.ports import GateProfile, Risk


@dataclass(frozen=True, slots=True)
class Circumstances:
    """How a call came about.

    `recovered`: it was repaired from malformed output; `untrusted`: text from outside was in the conversation;
    `tenant` and `agent`: for whom, and by which client software as it names itself (None: it does not); `schema`: the
    SHA-256 hex of the RFC 8785 form of the tool's JSON schema as the client offered it.
    """

    recovered: bool = False
    untrusted: bool = False
    tenant: str | None = None
    agent: str | None = None
    schema: str | None = None


PLAIN = Circumstances()
FLOOR = Risk.R2
_Class = Literal["R0", "R1", "R2", "R3"]
_Higher = Literal["R1", "R2", "R3", "FORBIDDEN"]
_CLASSES = (Risk.R0, Risk.R1, Risk.R2, Risk.R3, Risk.FORBIDDEN)


class When(Strict):
    """All that is named here must be so. Lists are patterns (`*`, `?`), one of which must fit.

    `agent` fits also a client that does not name itself when one of its patterns is `*`: nobody escapes a rule by
    saying less. `rule` fits when one of the rules that decided about the call's commands does; alone it is no
    circumstance.
    """

    recovered: Literal[True] | None = None
    untrusted: Literal[True] | None = None
    tenant: tuple[str, ...] = ()
    agent: tuple[str, ...] = ()
    tool: tuple[str, ...] = ()
    profile: tuple[Literal["observe", "coding", "ops"], ...] = ()
    rule: tuple[str, ...] = ()


class RaiseSpec(Strict):
    """One raise: from which classes to which. `keeps_standing`: what a standing plan covers stays as it is."""

    id: str = Field(pattern=r"^[a-z0-9]+(\.[a-z0-9_-]+)+$")
    when: When
    to: dict[_Class, _Higher] = Field(min_length=1)
    keeps_standing: bool = False
    reason: str = Field(min_length=3)

    def applies(
        self, circumstances: Circumstances, tool: str, profile: GateProfile, rules: Collection[str] = ()
    ) -> bool:
        """True when the call came about as this raise says; `rules` are the ids of those that decided about it."""
        when = self.when
        return (
            (when.recovered is None or circumstances.recovered)
            and (when.untrusted is None or circumstances.untrusted)
            and _fits(when.tenant, circumstances.tenant)
            and _fits(when.agent, circumstances.agent)
            and _fits(when.tool, tool)
            and (not when.profile or profile.value in when.profile)
            and (not when.rule or any(_fits(when.rule, rule) for rule in rules))
        )

    def raised(self, risk: Risk, covered: bool) -> Risk:
        """What `risk` becomes; never less."""
        if covered and self.keeps_standing:
            return risk
        steps: Mapping[str, str] = {**self.to}
        found = steps.get(risk.value)
        return risk if found is None else risk.at_least(Risk(found))


@dataclass(frozen=True, slots=True)
class Raised:
    """A class after the raises, and the reasons of those that moved it."""

    risk: Risk
    reasons: tuple[str, ...]


def raised(
    raises: Sequence[RaiseSpec],
    circumstances: Circumstances,
    tool: str,
    profile: GateProfile,
    risk: Risk,
    covered: bool,
    rules: Collection[str] = (),
) -> Raised:
    """`risk` after every raise that applies, each on its own: the highest counts, whatever their order.

    `rules` are the ids of the rules that decided about the call's commands.
    """
    floor = FLOOR if circumstances.recovered else Risk.R0
    found, reasons = risk.at_least(floor), list[str]()
    for each in raises:
        if not each.applies(circumstances, tool, profile, rules):
            continue
        after = each.raised(risk, covered)
        if after.rank > risk.rank:
            reasons.append(f"{each.id}: {each.reason}")
        found = found.at_least(after)
    if floor.rank > risk.rank and not reasons:
        reasons.append("call.recovered: the call was repaired from malformed output")
    return Raised(found, tuple(reasons))


def raise_faults(raises: Iterable[RaiseSpec]) -> list[str]:
    """What is wrong with the raises of a bundle: one that lowers, or that puts a class above a higher one."""
    raises = tuple(raises)
    ids = [each.id for each in raises]
    faults = [f"the raise {name} is given twice" for name in sorted({name for name in ids if ids.count(name) > 1})]
    for each in raises:
        steps: Mapping[str, str] = {**each.to}
        faults += [
            f"the raise {each.id} takes {low} to {high}, which is not higher"
            for low, high in steps.items()
            if Risk(high).rank <= Risk(low).rank
        ]
        after = [each.raised(risk, covered=False).rank for risk in _CLASSES]
        if after != sorted(after):
            faults.append(f"the raise {each.id} puts a class above one that was higher")
        if each.when.model_copy(update={"rule": ()}) == When():
            faults.append(f"the raise {each.id} names no circumstance; the tables are the place for that")
    return faults


def _fits(patterns: Sequence[str], text: str | None) -> bool:
    return not patterns or any(fnmatchcase(text or "", pattern) for pattern in patterns)

"""Probes: requests with the decision they must lead to. A policy that fails one of its own is not taken over.

```yaml
version: 1
policy: routing-v1
probes:
  - id: incident_failed_once
    tag: paraphrase              # paraphrase | collision | negative | fallback
    said:                        # the conversation, oldest first: one role and its text each
      - user: Checkout fails in production since 14:30. Find the root cause.
      - assistant: The database is overloaded.
      - user: That did not help, still 503.
    given: {risk: R0, untrusted_content: false, tools: [], failures_on_base: 0, tenant: acme}
    expect: {arm: 120b/medium, reason: incident_failed_once, fired: [incident_failed_once], not_fired: []}
```

`paraphrase`: the same wish in other words. `collision`: words of one rule in a request that is not its own. `negative`:
nothing may fire. `fallback`: the router itself is broken, and the turn must not go down.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from router.documents import PolicyError, flag, keys, listing, mapping, member, named_arm, number, text
from router.policy import Policy
from router.route import fallback, trace
from router.types import Arm, Risk, Role, RouteRequest, StateView, Turn

_MOST_PROBES: Final = 2_000
_MOST_CHARS: Final = 200_000
_EXPECTED: Final = frozenset({"arm", "reason", "fired", "not_fired"})
_GIVEN: Final = frozenset({"risk", "untrusted_content", "tools", "failures_on_base", "tenant"})


class Tag(StrEnum):
    """What a probe is there for."""

    PARAPHRASE = "paraphrase"
    COLLISION = "collision"
    NEGATIVE = "negative"
    FALLBACK = "fallback"


@dataclass(frozen=True, slots=True)
class Probe:
    """One request and what must come of it; what is None or empty is not looked at."""

    probe_id: str
    tag: Tag
    request: RouteRequest
    state: StateView
    tenant: str
    arm: Arm | None
    reason: str | None
    fired: frozenset[str]
    not_fired: frozenset[str]


def parse_probes(document: Mapping[str, object]) -> tuple[Probe, ...]:
    """The probes in a parsed YAML or JSON document; `PolicyError` for another shape, or for none at all."""
    keys(document, "probes file", required={"version", "policy", "probes"}, optional=set())
    if document["version"] != 1 or isinstance(document["version"], bool):
        raise PolicyError(f"probes file: version must be 1, not {document['version']!r}")
    raw = listing(document["probes"], "probes")
    if not 0 < len(raw) <= _MOST_PROBES:
        raise PolicyError(f"probes must hold 1 to {_MOST_PROBES} probes")
    probes = tuple(_probe(each, f"probes[{position}]") for position, each in enumerate(raw))
    ids = [probe.probe_id for probe in probes]
    if doubled := sorted({each for each in ids if ids.count(each) > 1}):
        raise PolicyError(f"probes: the id {doubled[0]!r} is used twice")
    return probes


def check(policy: Policy, document: Mapping[str, object]) -> int:
    """Run the probes of a policy; how many there were. `PolicyError` names the first ones that fail."""
    if (named := document.get("policy")) != policy.name:
        raise PolicyError(f"the probes are for the policy {named!r}, not for {policy.name!r}")
    probes = parse_probes(document)
    failures = [f"{probe.probe_id}: {wrong}" for probe in probes if (wrong := failure(policy, probe)) is not None]
    if failures:
        more = f" and {len(failures) - 3} more" if len(failures) > 3 else ""
        raise PolicyError(f"the policy fails its probes: {'; '.join(failures[:3])}{more}")
    return len(probes)


def failure(policy: Policy, probe: Probe) -> str | None:
    """What is wrong with what the policy makes of a probe; None when it is as expected."""
    known = {rule.rule_id for rule in policy.for_tenant(probe.tenant).rules}
    if unknown := sorted((probe.fired | probe.not_fired) - known):
        return f"there is no rule {unknown[0]!r}"
    if probe.tag is Tag.FALLBACK:
        decision, fired = fallback(probe.request, probe.state, policy.digest), frozenset[str]()
    else:
        found = trace(probe.request, probe.state, policy.for_tenant(probe.tenant))
        decision, fired = found.decision, frozenset(rule_id for rule_id, true in found.rules if true)
    if probe.arm is not None and probe.arm != (arm := Arm(decision.tier, decision.effort)):
        return f"{arm}, not {probe.arm}"
    if probe.reason is not None and decision.reason != probe.reason:
        return f"reason {decision.reason}, not {probe.reason}"
    if missing := sorted(probe.fired - fired):
        return f"{missing[0]} does not fire"
    if wrong := sorted(probe.not_fired & fired):
        return f"{wrong[0]} fires"
    if probe.tag is Tag.NEGATIVE and fired:
        return f"{min(fired)} fires"
    return None


def _probe(raw: object, where: str) -> Probe:
    document = mapping(raw, where)
    keys(document, where, required={"id", "tag", "said", "expect"}, optional={"given"})
    given = mapping(document.get("given", {}), f"{where}.given")
    keys(given, f"{where}.given", required=set(), optional=_GIVEN)
    expect = mapping(document["expect"], f"{where}.expect")
    keys(expect, f"{where}.expect", required=set(), optional=_EXPECTED)
    tag = member(Tag, document["tag"], f"{where}.tag")
    if not expect and tag is not Tag.NEGATIVE:
        raise PolicyError(f"{where}.expect is empty: the probe could not fail")
    tools = listing(given.get("tools", []), f"{where}.given.tools")
    request = RouteRequest(
        turns=tuple(_turn(part, f"{where}.said[{n}]") for n, part in enumerate(listing(document["said"], where))),
        offered_tools=tuple(text(tool, f"{where}.given.tools[{n}]", 256) for n, tool in enumerate(tools)),
        trusted_risk=member(Risk, given["risk"], f"{where}.given.risk") if "risk" in given else None,
        untrusted_content=flag(given.get("untrusted_content", False), f"{where}.given.untrusted_content"),
    )
    failures = number(given.get("failures_on_base", 0), f"{where}.given.failures_on_base", 0, 100)
    return Probe(
        probe_id=text(document["id"], f"{where}.id", 128),
        tag=tag,
        request=request,
        state=StateView(failures_on_base=failures),
        tenant=text(given.get("tenant", ""), f"{where}.given.tenant", 128),
        arm=named_arm(expect["arm"], f"{where}.expect.arm") if "arm" in expect else None,
        reason=text(expect["reason"], f"{where}.expect.reason", 128) if "reason" in expect else None,
        fired=_ids(expect.get("fired", []), f"{where}.expect.fired"),
        not_fired=_ids(expect.get("not_fired", []), f"{where}.expect.not_fired"),
    )


def _turn(raw: object, where: str) -> Turn:
    document = mapping(raw, where)
    if len(document) != 1:
        raise PolicyError(f"{where} must be one role and its text")
    role, said = next(iter(document.items()))
    return Turn(member(Role, role, where), text(said, f"{where}.{role}", _MOST_CHARS))


def _ids(raw: object, where: str) -> frozenset[str]:
    parts: Sequence[object] = listing(raw, where)
    return frozenset(text(part, f"{where}[{position}]", 64) for position, part in enumerate(parts))

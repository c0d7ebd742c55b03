import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from router.documents import PolicyError
from router.policy import ROUTING_V1, default_policy, parse_policy
from router.probes import Tag, check, parse_probes

FILE = Path(__file__).parents[3] / "configs" / "policies" / "routing-v1.probes.yaml"
SHIPPED = yaml.safe_load(FILE.read_text(encoding="utf-8"))


def probes(**changes: object) -> dict[str, Any]:
    probe: dict[str, object] = {
        "id": "p",
        "tag": "paraphrase",
        "said": [{"user": "Please drop the users table in production."}],
        "expect": {"reason": "risk_needs_reasoning"},
    }
    probe.update(changes)
    return {"version": 1, "policy": "routing-v1", "probes": [{k: v for k, v in probe.items() if v is not None}]}


def test_the_shipped_policy_passes_its_probes():
    assert check(default_policy(), SHIPPED) >= 25
    assert {probe.tag for probe in parse_probes(SHIPPED)} == set(Tag)


@pytest.mark.parametrize("rule_id", [rule.rule_id for rule in default_policy().rules])
def test_the_shipped_probes_miss_every_rule_of_the_policy(rule_id: str):
    document: dict[str, Any] = copy.deepcopy(dict(ROUTING_V1))
    document["rules"] = [rule for rule in document["rules"] if rule["id"] != rule_id]
    with pytest.raises(PolicyError, match="fails its probes"):
        check(parse_policy(document), SHIPPED)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"expect": {"reason": "default"}}, "reason risk_needs_reasoning, not default"),
        ({"expect": {"arm": "20b/medium"}}, "120b/high, not 20b/medium"),
        ({"expect": {"fired": ["review_large"]}}, "review_large does not fire"),
        ({"expect": {"not_fired": ["risk_needs_reasoning"]}}, "risk_needs_reasoning fires"),
        ({"tag": "negative", "expect": {}}, "risk_needs_reasoning fires"),
        ({"expect": {"fired": ["no_rule"]}}, "there is no rule 'no_rule'"),
        ({"tag": "fallback", "expect": {"reason": "router_error"}}, "reason router_error_raised"),
        ({"given": {"risk": "R0"}, "expect": {"arm": "20b/low"}}, "120b/high"),
        ({"expect": {}}, "could not fail"),
        ({"tag": "other"}, "must be one of paraphrase"),
        ({"said": [{"user": "x", "tool": "y"}]}, "one role and its text"),
        ({"said": [{"robot": "x"}]}, "must be one of system"),
        ({"said": "x"}, "must be a list"),
        ({"given": {"risc": "R1"}}, "unknown key 'risc'"),
        ({"given": {"failures_on_base": -1}}, "from 0 to 100"),
        ({"expect": {"arm": "20b"}}, "must be an arm"),
        ({"id": None}, "'id' is missing"),
    ],
)
def test_a_probe_that_fails_or_is_not_understood_refuses_the_policy(changes: dict[str, object], says: str):
    with pytest.raises(PolicyError, match=says):
        check(default_policy(), probes(**changes))


def test_probes_of_another_policy_and_no_probes_are_refused():
    with pytest.raises(PolicyError, match="are for the policy 'x'"):
        check(default_policy(), {**probes(), "policy": "x"})
    with pytest.raises(PolicyError, match="must hold 1 to"):
        check(default_policy(), {**probes(), "probes": []})
    with pytest.raises(PolicyError, match="used twice"):
        check(default_policy(), {**probes(), "probes": probes()["probes"] * 2})


def test_a_probe_may_speak_for_a_tenant():
    document = {**copy.deepcopy(dict(ROUTING_V1)), "tenants": {"acme": {"pin": {"tier": "120b"}}}}
    hello = probes(said=[{"user": "Hello!"}], given={"tenant": "acme"}, expect={"reason": "tenant_pin"})
    assert check(parse_policy(document), hello) == 1

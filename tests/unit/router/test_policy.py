import contextlib
import copy
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from router.conditions import AllOf, AnyOf, Is, Not, holds
from router.policy import RESERVED_REASONS, ROUTING_V1, PolicyError, default_policy, parse_policy

FILE = Path(__file__).parents[3] / "configs" / "policies" / "routing-v1.yaml"


def document(**changes: object) -> dict[str, object]:
    made = copy.deepcopy(dict(ROUTING_V1))
    made.update(changes)
    return made


def rule(**changes: object) -> dict[str, object]:
    made: dict[str, object] = {
        "id": "some_rule",
        "priority": 1,
        "when": "always",
        "effect": "floor",
        "arm": {"tier": "120b"},
    }
    made.update(changes)
    return made


def test_the_shipped_file_is_the_built_in_policy():
    shipped = parse_policy(yaml.safe_load(FILE.read_text(encoding="utf-8")))
    assert shipped == default_policy()
    assert len(shipped.digest) == 64


def test_the_digest_follows_the_meaning_and_not_the_spelling():
    assert parse_policy(dict(reversed(document().items()))).digest == default_policy().digest
    assert parse_policy(document(review={"large_lines": 399})).digest != default_policy().digest
    without_review = document()
    del without_review["review"]
    assert parse_policy(without_review).digest == default_policy().digest


def test_rules_come_by_priority():
    rules = [rule(id="low", priority=1), rule(id="high", priority=9), rule(id="also_low", priority=1)]
    assert [r.rule_id for r in parse_policy(document(rules=rules)).rules] == ["high", "low", "also_low"]


def test_and_or_not():
    condition = AllOf((Is("a"), AnyOf((Is("b"), Not(Is("c"))))))
    assert holds(condition, {"a", "b", "c"})
    assert holds(condition, {"a"})
    assert not holds(condition, {"a", "c"})
    assert not holds(condition, {"b"})


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (document(surprise=1), "unknown key 'surprise'"),
        (document(version=2), "version must be 1"),
        (document(version=True), "version must be 1"),
        (document(name="Bad Name"), "policy.name"),
        (document(default={"tier": "20b"}), "both tier and effort"),
        (document(default={"tier": "70b", "effort": "low"}), "must be one of 20b, 120b"),
        (document(review={"large_lines": 0}), "large_lines"),
        (document(review={"large_lines": True}), "large_lines"),
        (document(review={"lines": 3}), "unknown key 'lines'"),
        (document(rules={}), "must be a list"),
        (document(rules=[1]), "must be a mapping"),
        (document(rules=[rule(extra=1)]), "unknown key 'extra'"),
        (document(rules=[rule(id="default")]), "reason code"),
        (document(rules=[rule(id="Bad")]), "short name"),
        (document(rules=[rule(), rule()]), "used twice"),
        (document(rules=[rule(priority="1")]), "priority"),
        (document(rules=[rule(effect="maybe")]), "effect"),
        (document(rules=[rule(arm={})]), "neither tier nor effort"),
        (document(rules=[rule(arm={"tier": "120b", "model": "x"})]), "unknown key 'model'"),
        (document(rules=[rule(when="no_such_signal")]), "no signal 'no_such_signal'"),
        (document(rules=[rule(when={"all": []})]), "is empty"),
        (document(rules=[rule(when={"all": ["always"], "any": ["always"]})]), "exactly one"),
        (document(rules=[rule(when={"xor": ["always"]})]), "unknown key 'xor'"),
        (document(rules=[rule(when=7)]), "must be a mapping"),
        (document(rules=[rule(about=7)]), "about must be text"),
        ({"version": 1}, "is missing"),
    ],
)
def test_a_bad_policy_is_refused_and_says_why(bad: dict[str, object], says: str):
    with pytest.raises(PolicyError, match=says):
        parse_policy(bad)


def test_a_deeply_nested_condition_is_refused():
    condition: object = "always"
    for _ in range(2_000):
        condition = {"not": condition}
    with pytest.raises(PolicyError, match="nested too deeply"):
        parse_policy(document(rules=[rule(when=condition)]))


@pytest.mark.parametrize(
    ("floor_when", "ceiling_when", "refused"),
    [
        ("always", "always", True),
        ({"all": ["stalled", "tool_loop"]}, {"all": ["tool_loop", "stalled"]}, True),
        ("stalled", "always", True),
        ({"not": "stalled"}, "stalled", False),
        ("stalled", "tool_loop", False),
        ({"all": ["stalled", "tool_loop"]}, "stalled", True),
    ],
)
def test_a_floor_above_a_ceiling_is_refused_where_it_can_be_shown(
    floor_when: object, ceiling_when: object, refused: bool
):
    rules = [
        rule(id="up", when=floor_when, arm={"tier": "120b"}),
        rule(id="down", when=ceiling_when, effect="ceiling", arm={"tier": "20b"}),
    ]
    if refused:
        with pytest.raises(PolicyError, match="'up' lies above the ceiling 'down'"):
            parse_policy(document(rules=rules))
    else:
        assert len(parse_policy(document(rules=rules)).rules) == 2


def test_floor_and_ceiling_on_different_axes_agree():
    rules = [rule(id="up"), rule(id="down", effect="ceiling", arm={"effort": "low"})]
    assert len(parse_policy(document(rules=rules)).rules) == 2


def test_no_rule_of_v1_uses_a_reserved_reason():
    assert RESERVED_REASONS.isdisjoint(r.rule_id for r in default_policy().rules)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["always", "floor", "120b"]),
    lambda part: (
        st.lists(part, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "when", "all", "not", "rules", "arm", "tier", "version", "name", "default"]),
            part,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["version", "name", "default", "rules", "review", "x"]), JSON))
def test_anything_else_is_refused_with_our_error(raw: dict[str, object]):
    with pytest.raises(PolicyError):
        parse_policy(document(**raw, surprise=1))


@given(JSON)
def test_any_rule_is_accepted_or_refused_with_our_error(raw: object):
    with contextlib.suppress(PolicyError):
        assert len(parse_policy(document(rules=[raw])).rules) == 1

"""Heads from live traffic: what they learn, what the gate makes of them, and what they refuse to learn from."""

import numpy as np
import pytest

from router.features import read
from router.score import score
from router.snapshot import Snapshot, parse
from router.structure import NAMES, structure
from router.types import Tier
from serve_app.routing.coldstart import cold_start
from serve_app.routing.data import DataRefused
from serve_app.routing.learned_traffic import (
    Turns,
    design_of,
    judged_by_traffic,
    learn,
    of_one_tenant,
    proposed,
    said_by,
    worth,
)
from serve_app.routing.own import say
from serve_app.routing.promotion import Promotion
from serve_app.routing.traffic import TrafficRow, recovered
from serve_app.routing.train import TooFewLabels, train, unpacked_keys
from tests.unit.routing.sets import labelled
from tests.unit.routing.traffic_rows import Right, everywhere_better, helps, no_difference, turns

TRAFFIC = turns(1_500, seed=1)
NOBODY = frozenset[str]()


@pytest.fixture(scope="module")
def learned() -> Snapshot:
    return parse(learn(TRAFFIC, "acme").snapshot)


def judged(right: Right, seed: int, count: int = 1_000) -> Promotion:
    made = learn(turns(count, seed, right), "t")
    return judged_by_traffic(parse(made.snapshot), turns(count, seed + 1_000, right), NOBODY)


def row(hard: bool) -> TrafficRow:
    features = {"length": 5.5, "conditions": 1.6 if hard else 0.2, "distinct_words": 0.75}
    return TRAFFIC[0].model_copy(update={"features": features})


def test_what_is_hard_for_20b_gains_and_the_rest_does_not(learned: Snapshot):
    said = said_by(learned, Turns.of([row(True), row(False)]))
    assert said.gain[0] > 0.5
    assert abs(said.gain[1]) < 0.15
    assert said.abstains.tolist() == [False, True]  # the rest is no sure gain


def test_what_is_learned_is_what_the_router_says_of_a_prompt(learned: Snapshot):
    prompts = ("If it rains, when does it stop unless it snows?", "Tell me about the river and the harbour.")
    for prompt in prompts:
        passage = read(prompt)
        served = score((passage,), learned)
        numbers = np.asarray([structure(passage)])
        (gain,) = say(learned, design_of(numbers, learned.bits)).gain
        assert served.gain == pytest.approx(gain, abs=2e-6)


def test_every_feature_can_be_read_back_from_what_the_new_heads_explain(learned: Snapshot):
    assert set(learned.names) == {"length", "conditions", "distinct_words"}
    passage = read("If it rains, when does it stop unless it snows or hails after noon?")
    found = recovered(score((passage,), learned).contributions, learned)
    numbers = dict(zip(NAMES, structure(passage), strict=True))
    for scale in learned.scales:
        bound = 4 * scale.deviation
        expected = min(max(numbers[scale.name], scale.mean - bound), scale.mean + bound)
        assert found[scale.name] == pytest.approx(expected, abs=2e-3 * scale.deviation), scale.name


def test_a_feature_that_never_varied_keeps_the_spread_it_has_elsewhere():
    flat = [each.model_copy(update={"features": {**each.features, "option_similarity": 0.0}}) for each in TRAFFIC]
    snapshot = parse(learn(flat, "t").snapshot)
    passage = read("Which one?\nA. red apple\nB. red pear\nC. red plum\n")
    found = recovered(score((passage,), snapshot).contributions, snapshot)
    assert found["option_similarity"] > 0.2  # of a third; cut at four deviations, and not at four thousandths


def test_the_same_turns_give_the_same_bytes_and_a_report_without_words():
    first, again = learn(TRAFFIC, "acme"), learn(TRAFFIC, "acme")
    assert first.snapshot == again.snapshot
    assert unpacked_keys(first.keys) == {each.group for each in TRAFFIC}
    assert first.report["tenants"] == ["acme"]
    assert first.report["rows"] == {"given": 1_500, "learned_from": 1_500}


def test_graded_verdicts_teach_too():
    graded = [each.model_copy(update={"outcome": 0.1 + 0.8 * (each.outcome or 0.0)}) for each in TRAFFIC]
    said = said_by(parse(learn(graded, "t").snapshot), Turns.of([row(True), row(False)]))
    assert said.gain[0] > 0.35 > said.gain[1]


def test_rare_exploration_speaks_no_louder_than_its_turns():
    # 2 % of 120b: a weight of 50 each would let thirty turns outvote fifteen hundred, and fit their noise.
    rare = turns(1_500, seed=9, right=no_difference, exploration=0.04)
    said = said_by(parse(learn(rare, "t").snapshot), Turns.of(rare))
    assert np.abs(said.gain).mean() < 0.2


def test_the_gate_lets_a_head_act_that_knows_where_120b_helps():
    outcome = judged(helps, seed=20)
    assert outcome.acts == "difference"
    assert outcome.labels == 1_000
    assert set(outcome.verdicts[0].over) == {"length", "task prior"}


@pytest.mark.parametrize("right", [everywhere_better, no_difference], ids=["everywhere-better", "no-difference"])
def test_the_gate_refuses_heads_learned_from_noise(right: Right):
    admitted = [judged(right, seed, count=600).acts for seed in range(40, 52)]
    assert admitted == [None] * 12


def test_the_gate_hears_no_users_thumb(learned: Snapshot):
    thumbs = turns(800, seed=3, trust=0.3)
    with pytest.raises(DataRefused, match="no turn is left"):
        judged_by_traffic(learned, thumbs, NOBODY)
    assert learn(thumbs, "t").report["rows"] == {"given": 800, "learned_from": 800}  # but it teaches


def test_sessions_that_were_learned_from_judge_nothing(learned: Snapshot):
    known = frozenset(each.group for each in TRAFFIC)
    with pytest.raises(DataRefused, match="no turn is left"):
        judged_by_traffic(learned, TRAFFIC, known)
    fresh = turns(500, seed=8)
    assert judged_by_traffic(learned, (*TRAFFIC, *fresh), known).labels == 500


def test_its_worth_is_estimated_beside_what_it_has_to_beat(learned: Snapshot):
    found = worth(learned, turns(1_500, seed=5), NOBODY, share=0.3)
    by_name = {value.name: value for value in found.values}
    assert list(by_name) == ["candidate", "active", "random 30%", "always 20b", "always 120b"]
    truth = {"candidate": 0.95, "active": 0.695, "always 20b": 0.695, "always 120b": 0.95}
    for name, right in truth.items():
        for figure in (by_name[name].robust, by_name[name].snips):
            assert figure.low - 0.04 <= right <= figure.high + 0.04, (name, figure)
    assert by_name["candidate"].strong_share <= 0.3
    assert [(lead.over, lead.lead.low > 0) for lead in found.leads] == [("active", True), ("random 30%", True)]


def test_a_budget_is_never_exceeded_and_the_surest_gains_come_first(learned: Snapshot):
    asked = Turns.of(TRAFFIC)
    said = said_by(learned, asked)
    chosen = proposed(said, 0.1)
    assert 0 < chosen.mean() <= 0.1
    assert said.gain[chosen > 0].min() >= said.gain[(chosen == 0) & ~said.abstains].max()
    assert not proposed(said, 0.0).any()
    assert not proposed(said, 1.0)[said.abstains].any()


def test_what_cannot_judge_is_said():
    with pytest.raises(DataRefused, match="orders turns"):
        judged_by_traffic(cold_start(), TRAFFIC, NOBODY)
    words = parse(train(labelled(240), "two", "t", bits=12, measure=False).snapshot)
    with pytest.raises(DataRefused, match="looks at words"):
        judged_by_traffic(words, TRAFFIC, NOBODY)
    poorer = [each.model_copy(update={"features": {"length": 5.0}}) for each in TRAFFIC]
    with pytest.raises(DataRefused, match="conditions, distinct_words"):
        judged_by_traffic(parse(learn(TRAFFIC, "t").snapshot), poorer, NOBODY)


def test_without_exploration_nothing_is_learned_and_nothing_estimated(learned: Snapshot):
    never = turns(600, seed=6, exploration=0.0)
    with pytest.raises(TooFewLabels, match="0 judged turns of 120b"):
        learn(never, "t")
    refused = judged_by_traffic(learned, never, NOBODY)
    assert refused.acts is None
    assert "0 judged turns of 120b" in refused.verdicts[0].why[0]
    found = worth(learned, never, NOBODY, share=0.2)
    assert found.refused
    assert found.values == ()


def test_turns_that_a_rule_decided_and_turns_that_nobody_judged_teach_nothing():
    ruled = [each.model_copy(update={"chances": dict[Tier, float]()}) for each in TRAFFIC[:400]]
    silent = [each.model_copy(update={"outcome": None, "trust": 0.0, "source": ""}) for each in TRAFFIC[400:800]]
    assert Turns.of([*ruled, *silent]).rows == ()
    with pytest.raises(TooFewLabels, match="0 judged turns"):
        learn([*ruled, *silent], "t")


def test_outcomes_that_are_all_alike_teach_nothing():
    perfect = [each.model_copy(update={"outcome": 1.0}) for each in TRAFFIC]
    with pytest.raises(TooFewLabels, match="alike"):
        learn(perfect, "t")


def test_one_tenant_at_a_time_unless_asked():
    both = (*turns(5, 1), *turns(5, 2, tenant="other"))
    with pytest.raises(DataRefused, match="2 tenants"):
        of_one_tenant(both, mixed=False)
    of_one_tenant(both, mixed=True)
    of_one_tenant(both[:5], mixed=False)

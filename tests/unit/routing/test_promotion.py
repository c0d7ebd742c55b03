"""The gate: who may act, who may not, and that it says why."""

import numpy as np

from serve_app.routing.metrics import Outcomes
from serve_app.routing.promotion import promote

DRAW = np.random.default_rng(0)
N = 3_000
TALENT = DRAW.random(N)
WEAK = (DRAW.random(N) < 0.75 - 0.3 * TALENT).astype(float)
STRONG = np.maximum(WEAK, (DRAW.random(N) < 0.7 * TALENT).astype(float))
TOLD = Outcomes.of(WEAK, STRONG)
NOISE = DRAW.random(N)
BLURRED = TALENT + DRAW.normal(0.0, 0.4, N)

FAINT = TALENT[:400] + np.random.default_rng(2).normal(0.0, 2.0, 400)


def test_a_head_that_beats_every_ruler_may_act():
    outcome = promote(TOLD, {"difference": TALENT}, {"length": NOISE})
    (verdict,) = outcome.verdicts
    assert verdict.admitted
    assert outcome.acts == "difference"
    assert verdict.apgr is not None
    assert verdict.apgr.low > 0.5
    assert verdict.over["length"].low > 0


def test_a_head_is_refused_for_chance_for_a_better_ruler_and_for_an_equal_one():
    chance = promote(TOLD, {"difference": NOISE}, {"length": NOISE[::-1]})
    assert any("random" in reason for reason in chance.verdicts[0].why)
    worse = promote(TOLD, {"difference": BLURRED}, {"length": TALENT})
    assert [("length" in reason) for reason in worse.verdicts[0].why] == [True]
    equal = promote(TOLD, {"difference": TALENT}, {"length": TALENT.copy()})
    assert equal.acts is None


def test_a_lead_that_may_be_chance_is_not_enough():
    # Right in sign, but 400 labels cannot tell it from nothing: the lower ends count, not the values.
    part = Outcomes.of(WEAK[:400], STRONG[:400])
    (verdict,) = promote(part, {"difference": FAINT}, {"length": NOISE[:400]}).verdicts
    assert verdict.apgr is not None
    assert verdict.apgr.value > 0.5 > verdict.apgr.low
    assert verdict.over["length"].value > 0 > verdict.over["length"].low
    assert len(verdict.why) == 2


def test_every_ruler_counts_by_itself():
    outcome = promote(TOLD, {"difference": BLURRED}, {"length": NOISE, "task prior": TALENT})
    assert [reason.split(" may be")[0] for reason in outcome.verdicts[0].why] == ["its lead over task prior"]


def test_the_best_admitted_head_acts():
    outcome = promote(TOLD, {"blurred": BLURRED, "sharp": TALENT, "noise": NOISE}, {"length": NOISE[::-1]})
    assert [verdict.admitted for verdict in outcome.verdicts] == [True, True, False]
    assert outcome.acts == "sharp"


def test_few_labels_and_pairs_without_a_gap_are_refused_whatever_the_score():
    few = Outcomes.of(WEAK[:299], STRONG[:299])
    assert "fewer than 300" in promote(few, {"difference": TALENT[:299]}, {}).verdicts[0].why[0]
    same = promote(Outcomes.of(WEAK, WEAK), {"difference": TALENT}, {"length": NOISE})
    assert same.acts is None
    assert "strong - weak" in same.verdicts[0].why[0]


def test_pooled_labels_admit_no_head_that_harms_the_tenants_own():
    own = np.zeros(N, dtype=np.bool_)
    own[:400] = True
    turned = TALENT.copy()
    turned[own] = -TALENT[own]
    assert promote(TOLD, {"difference": turned}, {"length": NOISE}).acts == "difference"
    outcome = promote(TOLD, {"difference": turned}, {"length": NOISE}, own=own)
    assert outcome.acts is None
    assert any("own labels" in reason for reason in outcome.verdicts[0].why)
    assert promote(TOLD, {"difference": TALENT}, {"length": NOISE}, own=own).acts == "difference"
    assert promote(TOLD, {"difference": TALENT}, {"length": NOISE}, own=~np.ones(N, np.bool_)).acts is None


def test_the_same_labels_give_the_same_verdict():
    assert promote(TOLD, {"d": BLURRED}, {"length": NOISE}, seed=3) == promote(
        TOLD, {"d": BLURRED}, {"length": NOISE}, seed=3
    )

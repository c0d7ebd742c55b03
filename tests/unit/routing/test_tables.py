from dataclasses import replace

import numpy as np
import pytest

from router.features import read
from router.policy import default_policy
from router.score import score
from router.snapshot import Snapshot
from serve_app.routing import own, peer
from serve_app.routing.baselines import (
    ALWAYS_STRONG,
    ALWAYS_WEAK,
    LENGTH,
    OBLIGATORY,
    ORACLE,
    RULES,
    TASK_PRIOR,
    Contender,
    obligatory,
    task_prior,
)
from serve_app.routing.design import Design
from serve_app.routing.folds import Fold, by_id, numbers
from serve_app.routing.metrics import Outcomes, Resamples, apgr
from serve_app.routing.study import (
    ANSWERS,
    ELSEWHERE,
    FORMULA,
    GIVEN,
    HEADS,
    PEER_HEADS,
    SNAPSHOT,
    PairSet,
    SetStudy,
    few_labels,
    study,
    transfer,
)
from serve_app.routing.tables import measure, quality_curve, slices
from tests.unit.routing.sets import labelled

ROWS = labelled(160)
OUTCOMES = Outcomes.of([row.weak_ok for row in ROWS], [row.strong_ok for row in ROWS])
FOLDS = by_id(ROWS)
BASELINES = obligatory(ROWS, OUTCOMES, [row.task for row in ROWS], FOLDS, np.zeros(len(ROWS)))
DRAWN = Resamples.over_prompts(len(ROWS), 40)


def test_every_table_has_every_obligatory_line() -> None:
    table = measure("s", OUTCOMES, BASELINES, DRAWN)
    assert tuple(line.name for line in table.lines) == OBLIGATORY
    for missing in OBLIGATORY:
        with pytest.raises(ValueError, match=missing.split(" (")[0]):
            measure("s", OUTCOMES, [each for each in BASELINES if each.name != missing], DRAWN)


def test_what_the_lines_say() -> None:
    table = measure("s", OUTCOMES, BASELINES, DRAWN)
    weak, strong, rules = (table.line(name) for name in (ALWAYS_WEAK, ALWAYS_STRONG, RULES))
    assert weak
    assert strong
    assert rules
    assert (weak.choice.strong_share, weak.choice.quality, weak.choice.pgr) == (0.0, OUTCOMES.weak.mean(), 0.0)
    assert (strong.choice.quality, strong.choice.pgr) == (OUTCOMES.strong.mean(), pytest.approx(1.0))
    assert rules.choice.strong_share == 0.0
    assert table.apgr(ORACLE).value == max(line.ranking.apgr.value for line in table.lines if line.ranking)
    assert table.apgr(LENGTH).value == pytest.approx(apgr(OUTCOMES, [len(row.prompt) for row in ROWS]))
    assert table.line(LENGTH).over_length is None
    prior = table.line(TASK_PRIOR)
    assert prior.reliability is not None
    assert prior.over_length.value == pytest.approx(table.apgr(TASK_PRIOR).value - table.apgr(LENGTH).value)


def test_a_set_whose_models_are_alike_has_no_apgr_but_all_of_its_lines() -> None:
    alike = Outcomes.of(OUTCOMES.weak, OUTCOMES.weak)
    table = measure("s", alike, obligatory(ROWS, alike, [""] * len(ROWS), FOLDS, np.ones(len(ROWS))), DRAWN)
    assert "0.0 points" in table.refused.why
    assert table.apgr(ORACLE) is None
    assert table.line(RULES).choice.pgr is None
    assert table.line(RULES).choice.strong_share == 1.0
    assert len(table.lines) == len(OBLIGATORY)


def test_the_task_prior_never_sees_the_row_it_is_asked_about() -> None:
    """The row's own outcome turned round changes the prior of others, not its own."""
    tasks = [row.task for row in ROWS]
    before = task_prior(tasks, OUTCOMES.weak, FOLDS)
    turned = OUTCOMES.weak.copy()
    row = int(FOLDS[0].test[0])
    turned[row] = 1.0 - turned[row]
    after = task_prior(tasks, turned, FOLDS)
    assert (after[FOLDS[0].test] == before[FOLDS[0].test]).all()
    assert (after != before).any()


def test_a_tasks_prior_leans_on_the_mean_of_all_when_it_has_few_rows() -> None:
    weak = np.asarray([0.0] * 2 + [1.0] * 38)
    tasks = ["rare"] * 2 + ["common"] * 38
    everything = np.arange(40)
    prior = task_prior(tasks, weak, [Fold(everything, everything)])
    assert prior[0] == pytest.approx((2 + 20 * 0.05) / 22)
    assert prior[5] == pytest.approx((0 + 20 * 0.05) / 58)


def test_slices_are_measured_with_the_scores_of_their_own_rows() -> None:
    found = slices("s", [row.task for row in ROWS], OUTCOMES, BASELINES, 10)
    assert [table.name for table in found] == ["s: task 0", "s: task 1", "s: task 2"]
    assert sum(table.description.n for table in found) == len(ROWS)
    inside = np.flatnonzero([row.task == "task 1" for row in ROWS])
    part = Outcomes(OUTCOMES.weak[inside], OUTCOMES.strong[inside])
    assert found[1].description.weak == part.weak.mean()
    if found[1].apgr(LENGTH):
        assert found[1].apgr(LENGTH).value == pytest.approx(apgr(part, [float(len(ROWS[i].prompt)) for i in inside]))


def test_a_curve_for_a_picture_starts_at_weak_and_ends_at_strong() -> None:
    share, quality = quality_curve(OUTCOMES, OUTCOMES.gain, 11)
    assert (share[0], share[-1], len(share)) == (0.0, 1.0, 11)
    assert quality[0] == pytest.approx(OUTCOMES.weak.mean())
    assert quality[-1] == pytest.approx(OUTCOMES.strong.mean())
    assert max(quality) > quality[-1]


def test_our_heads_as_arrays_say_what_the_served_scorer_says() -> None:
    design = Design.of([row.prompt for row in ROWS])
    fold = FOLDS[0]
    snapshot = own.learn_two(design, OUTCOMES, ROWS, fold)
    prompts = ["zyx wvu tsr", "你好，请问这是什么？", *(ROWS[index].prompt for index in numbers(fold.test)[:30])]
    said = own.say(snapshot, Design.of(prompts))
    served = [score([read(prompt)], snapshot) for prompt in prompts]
    assert [each.abstained is not None for each in served] == said.abstains.tolist()
    assert said.abstains[:2].all()
    assert not said.abstains.all()
    assert said.gain.tolist() == pytest.approx([each.gain for each in served], abs=1e-4)
    assert (1 - said.weak_ok).tolist() == pytest.approx([each.difficulty for each in served], abs=1e-4)
    assert (said.served == np.where(said.abstains, -1.0, said.gain)).all()


def test_the_difficulty_head_as_arrays_says_what_the_served_scorer_says() -> None:
    snapshot = own.learn_difficulty(ROWS)
    prompts = [row.prompt for row in ROWS[:20]] + ["zyx wvu tsr"]
    served = [score([read(prompt)], snapshot).difficulty for prompt in prompts]
    assert own.difficulty(snapshot, Design.of(prompts)).tolist() == pytest.approx(served, abs=1e-4)


def test_the_peer_learns_from_the_training_rows_alone() -> None:
    """Outcomes of the tested rows turned round change nothing that is said of them."""
    bag = peer.Bag.of([row.prompt for row in ROWS])
    fold = FOLDS[1]
    turned = Outcomes(OUTCOMES.weak.copy(), OUTCOMES.strong.copy())
    turned.weak[fold.test] = 1.0 - turned.weak[fold.test]
    turned.strong[fold.test] = 1.0 - turned.strong[fold.test]
    for learned, again in zip(peer.heads(bag, OUTCOMES, fold), peer.heads(bag, turned, fold), strict=True):
        assert (learned == again).all()
    assert (peer.direct_gain(bag, OUTCOMES, fold) == peer.direct_gain(bag, turned, fold)).all()


def test_a_feature_that_never_varied_in_training_does_not_drown_the_rest() -> None:
    """One line each in training, several in the test: the deviation of equal logarithms is not exactly 0."""
    prompts = [row.prompt for row in ROWS[:100]] + [f"{row.prompt}\nAnswer:\n" for row in ROWS[100:]]
    fold = Fold(np.arange(100), np.arange(100, len(ROWS)))
    weak, _ = peer.heads(peer.Bag.of(prompts), OUTCOMES, fold)
    assert ((weak > 0.01) & (weak < 0.99)).all()


@pytest.fixture(scope="module")
def pair() -> PairSet:
    return PairSet.of("made up", labelled(180, answers=True))


@pytest.fixture(scope="module")
def other() -> PairSet:
    return PairSet.of("other", labelled(320, seed=1, set_name="other", tasks=0))


@pytest.fixture(scope="module")
def snapshot(pair: PairSet) -> Snapshot:
    return own.learn_two(pair.design, pair.outcomes, pair.rows, by_id(pair.rows)[0])


@pytest.fixture(scope="module")
def studied(pair: PairSet, other: PairSet, snapshot: Snapshot) -> SetStudy:
    return study(pair, [other], default_policy(), snapshot, seen=True, resamples=10, grouped=False)


def test_a_study_has_every_contender_and_every_slice(studied: SetStudy) -> None:
    names = [line.name for line in studied.table.lines]
    assert set(OBLIGATORY) | {FORMULA, ELSEWHERE, HEADS, PEER_HEADS, ANSWERS} <= set(names)
    assert len(studied.tasks) == 3
    assert studied.languages == ()
    assert studied.notes == ()
    assert {curve.name for curve in studied.curves} == set(names) - {ALWAYS_WEAK, ALWAYS_STRONG}
    assert studied.table.apgr(HEADS).value > 0.55  # there is something to learn, and it is learned


def test_a_snapshot_is_a_line_of_its_own_and_says_whether_it_has_seen_the_rows(
    pair: PairSet, snapshot: Snapshot, studied: SetStudy
) -> None:
    assert {line.name for line in studied.table.lines if line.seen} == {SNAPSHOT, GIVEN}
    served = [score([read(prompt)], snapshot).gain for prompt in pair.prompts]
    assert studied.table.apgr(GIVEN).value == pytest.approx(apgr(pair.outcomes, served))


def test_lines_that_cannot_be_measured_are_missing_with_a_reason(other: PairSet) -> None:
    rows = [replace(row, weak_ok=1.0, strong_ok=1.0) for row in labelled(30, seed=5, answers=True)]
    found = study(PairSet.of("alike", rows), [other], default_policy(), None, seen=False, resamples=5)
    names = [line.name for line in found.table.lines]
    assert HEADS not in names
    assert ANSWERS not in names
    assert [note.split(":")[0] for note in found.notes] == ["No heads were learned", "No checks of answers"]


def test_few_labels_leave_out_sizes_without_a_test(pair: PairSet) -> None:
    (found,) = few_labels(pair, sizes=(90, 120), seeds=(0, 1))
    assert found.labels == 90
    assert found.seeds == 2
    assert HEADS in found.apgr
    assert found.apgr[LENGTH][1] > 0.0


def test_heads_that_learned_the_models_the_wrong_way_round_are_refused(pair: PairSet, other: PairSet) -> None:
    turned = [replace(row, weak_ok=row.strong_ok, strong_ok=row.weak_ok) for row in pair.rows]
    moved = {each.contender: each for each in transfer(PairSet.of("turned", turned), other, default_policy())}
    for name in (HEADS, PEER_HEADS):
        assert not moved[name].admitted
        assert moved[name].why
        assert moved[name].apgr.value < 0.5


def test_a_contender_without_a_score_has_no_ranking() -> None:
    table = measure("s", OUTCOMES, [*BASELINES, Contender("mute", None)], DRAWN)
    assert table.line("mute").ranking is None
    assert table.line("gone") is None

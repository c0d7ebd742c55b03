"""The answer checks on labelled answers, and the weights that are committed."""

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("numpy", reason="the extra `router` is not installed")
pytest.importorskip("sklearn", reason="the extra `router` is not installed")

from router.verify import weights as committed
from router.verify.answer_score import COMMITTED
from router.verify.reckoning import CHECKS
from serve_app.routing import answers
from serve_app.routing.data import GSM8K, DataFolder, Labelled
from serve_app.routing.metrics import Ranking

FOLDER = Path(__file__).parents[3] / "../shared/data/router"


def row(number: int, ok: bool, answer: str | None) -> Labelled:
    question = f"A box holds {number} eggs. How many eggs are in 5 boxes?"
    return Labelled(f"r{number}", f"k{number}", "made", question, float(ok), float(number % 5 != 0), "", "", answer)


def made(rows: int = 90) -> list[Labelled]:
    """Answers of which every third is wrong and says so: its equation is false."""
    return [
        row(n, n % 3 != 0, f"5 boxes hold 5 * {n} = {5 * n + (40 if n % 3 == 0 else 0)} eggs.")
        for n in range(3, rows + 3)
    ]


def test_what_tells_wrong_answers_gets_weight() -> None:
    weights = dict(zip(CHECKS, answers.fit(made()).weights, strict=True))
    assert weights["false_equations"] > 1
    assert abs(weights["unknowns"]) < 0.5


def test_a_check_that_never_varies_weighs_nothing() -> None:
    weights = dict(zip(CHECKS, answers.fit(made()).weights, strict=True))
    assert weights["many_operands"] == 0.0


def test_figures_of_a_set_on_which_the_checks_are_perfect() -> None:
    report = answers.evaluate(made())
    assert (report.n, report.wrong) == (90, 30)
    assert report.auc is not None
    assert report.auc.value == 1.0
    arithmetic = next(each for each in report.verdicts if each.name == "arithmetic")
    assert arithmetic.precision is not None
    assert (arithmetic.fired, arithmetic.precision.value, arithmetic.recall.value) == (30, 1.0, 1.0)


def test_answers_that_teach_nothing_are_refused() -> None:
    with pytest.raises(answers.NoAnswers):
        answers.fit(made(20))
    with pytest.raises(answers.NoAnswers):
        answers.fit([row(n, True, "5 * 3 = 15") for n in range(80)])
    with pytest.raises(answers.NoAnswers):
        answers.evaluate([row(n, n % 2 == 0, None) for n in range(80)])


def test_no_row_is_judged_by_weights_that_saw_its_label() -> None:
    """What a single row says of itself changes what is said of others, never what is said of itself."""
    rows = list(answers.answered(made()))
    said = answers.out_of_fold(rows)
    rows[0] = replace(rows[0], weak_ok=1.0 - rows[0].weak_ok)
    again = answers.out_of_fold(rows)
    assert again[0] == said[0]
    assert (again != said).any()


@pytest.fixture(scope="module")
def labelled() -> tuple[DataFolder, tuple[Labelled, ...]]:
    if not FOLDER.is_dir():
        print(f"no labels at {FOLDER}: the bars of the answer checks are not measured")
        pytest.skip("the label sets are not beside the repository")
    folder = DataFolder.open(FOLDER)
    return folder, folder.labelled(GSM8K)


def test_the_committed_weights_are_what_the_labels_teach(
    labelled: tuple[DataFolder, tuple[Labelled, ...]],
) -> None:
    folder, rows = labelled
    weights = answers.fit(rows)
    assert weights.bias == pytest.approx(COMMITTED.bias, abs=2e-3)
    assert weights.weights == pytest.approx(COMMITTED.weights, abs=2e-3)
    text = answers.weights_module(COMMITTED, rows, folder.sources[GSM8K].licence)
    assert text == Path(committed.__file__).read_text(encoding="utf-8")


def test_the_bars_hold_out_of_fold(labelled: tuple[DataFolder, tuple[Labelled, ...]]) -> None:
    report = answers.evaluate(labelled[1])
    assert isinstance(report.ranking, Ranking)
    assert report.auc is not None
    assert report.auc.value >= 0.78
    assert report.ranking.apgr.value >= 0.70
    whole = next(each for each in report.verdicts if each.name == "any")
    assert whole.precision is not None
    assert whole.precision.value >= 0.85

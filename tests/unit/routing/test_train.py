"""What is trained is what is served: equal to scikit-learn, the same bytes each time, and honest about what it saw."""

import gzip
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from typer.testing import CliRunner

from router.features import read
from router.heads import logit_terms, sight
from router.score import score
from router.snapshot import parse
from serve_app.cli.router import app
from serve_app.routing.coldstart import cold_start, cold_start_bytes
from serve_app.routing.data import BESIDE_REPOSITORY, GSM8K, MMLU, DataFolder, DataRefused, Labelled, key_of
from serve_app.routing.design import Design, scaled, scales_of
from serve_app.routing.fitting import (
    ByUnitWeights,
    TwoHeads,
    even_weights,
    events,
    fit_difficulty,
    fit_two,
    isotonic,
    linear_pair,
    lower_bound,
    platt,
    unit_head,
)
from serve_app.routing.folds import by_id, few
from serve_app.routing.hard_for_both import NUMERIC_OPTIONS, misleading
from serve_app.routing.metrics import Outcomes, apgr
from serve_app.routing.reliability import ece
from serve_app.routing.train import TooFewLabels, judged, ordering, picked, scored, train, unpacked_keys
from tests.unit.routing.sets import labelled

RUNNER = CliRunner()
ROWS = labelled(240)
BITS = 13


def outcomes(rows: list[Labelled]) -> Outcomes:
    return Outcomes.of([row.weak_ok for row in rows], [row.strong_ok for row in rows])


@pytest.fixture(scope="module")
def design() -> Design:
    return Design.of([row.prompt for row in ROWS], BITS)


@pytest.fixture(scope="module")
def two(design: Design) -> bytes:
    return fit_two(design, outcomes(ROWS), "two", by_id(ROWS), TwoHeads())


def served_logits(data: bytes, rows: list[Labelled], head: int) -> np.ndarray:
    snapshot = parse(data)
    seen = [sight(read(row.prompt), snapshot.scales, snapshot.seen, snapshot.bits) for row in rows]
    return np.asarray([sum(v for _, v in logit_terms(snapshot.heads[head], each, snapshot.names)) for each in seen])


def test_the_served_logit_is_scikit_learns_own_to_a_thousandth(design: Design, two: bytes):
    settings = TwoHeads()
    numbers = scaled(design, parse(two).scales)
    # The same regression, asked by scikit-learn itself: one row per model and prompt.
    plain = np.hstack([design.words.toarray(), settings.hand * numbers, np.ones((len(ROWS), 1))])
    own = settings.apart * plain
    stacked = np.vstack([np.hstack([plain, -own]), np.hstack([plain, own])])
    told = outcomes(ROWS)
    model = LogisticRegression(
        C=settings.inverse_penalty, solver="liblinear", dual=True, max_iter=3_000, fit_intercept=False, random_state=0
    ).fit(stacked, np.concatenate((told.weak, told.strong)) >= 0.5)
    asked = model.decision_function(stacked)
    # Half floats are the only difference.
    assert np.abs(served_logits(two, ROWS, 0) - asked[: len(ROWS)]).max() < 1e-3
    assert np.abs(served_logits(two, ROWS, 1) - asked[len(ROWS) :]).max() < 1e-3
    assert np.abs(asked).max() > 0.5


def test_two_heads_find_what_the_strong_model_helps_with(two: bytes):
    fresh = labelled(600, seed=9)
    scores = scored([row.prompt for row in fresh], parse(two))
    assert apgr(outcomes(fresh), ordering(scores)) > 0.62
    gains = ordering(scores)
    prime = np.asarray(["prime" in row.prompt for row in fresh])
    poem = np.asarray(["poem" in row.prompt for row in fresh])
    assert gains[prime & ~poem].mean() > gains[poem & ~prime].mean() + 0.05


def test_the_heads_differ_less_the_more_the_difference_is_held_back(design: Design):
    numbers = scaled(design, scales_of(design, ("length",), np.ones(len(design))))
    spreads = []
    for apart in (1.0, 0.1):
        weak, strong = linear_pair(numbers, design.words, outcomes(ROWS), TwoHeads(apart=apart))
        spreads.append(float(np.std(strong.words - weak.words)))
    assert spreads[1] < spreads[0] / 3


_PROCESS = """
import hashlib
from serve_app.routing.train import train
from tests.unit.routing.sets import labelled
for heads in ("difficulty", "two"):
    trained = train(labelled(120), heads, "t", bits=12, measure=False)
    print(hashlib.sha256(trained.snapshot).hexdigest(), hashlib.sha256(trained.keys).hexdigest())
"""


def test_the_same_rows_give_the_same_bytes_in_another_process():
    other = subprocess.run(
        [sys.executable, "-c", _PROCESS], env={**os.environ, "PYTHONHASHSEED": "7"}, check=True, capture_output=True
    )
    ours = [train(labelled(120), heads, "t", bits=12, measure=False) for heads in ("difficulty", "two")]
    told = [f"{hashlib.sha256(t.snapshot).hexdigest()} {hashlib.sha256(t.keys).hexdigest()}" for t in ours]
    assert other.stdout.decode().splitlines() == told
    assert told[0] != told[1]


def test_the_command_writes_the_snapshot_its_report_and_its_keys(tmp_path: Path):
    file, out = tmp_path / "rows.jsonl", tmp_path / "own.snapshot"
    rows = [
        {"id": row.row_id, "prompt": row.prompt, "task": row.task, "weak_ok": row.weak_ok, "strong_ok": row.strong_ok}
        for row in ROWS
    ]
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    arguments = ["train", str(file), "--out", str(out), "--bits", "12", "--labels", "100", "--no-measure"]
    done = RUNNER.invoke(app, arguments)
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "own.snapshot.report.json").read_text("utf-8"))
    assert report["digest"] == parse(out.read_bytes()).digest
    assert report["rows"]["learned_from"] == 100
    assert len(unpacked_keys((tmp_path / "own.snapshot.keys").read_bytes())) == 100
    file.write_text("{}", encoding="utf-8")
    assert RUNNER.invoke(app, arguments).exit_code == 2
    assert RUNNER.invoke(app, [*arguments, "--heads", "three"]).exit_code == 2


def test_a_report_says_where_the_rows_come_from_and_what_the_heads_are_worth():
    report = train(ROWS, "two", "t", bits=BITS).report
    assert report["rows"] == {"given": 240, "repeated": 0, "learned_from": 240}
    assert report["sets"] == {"made up": 240}
    figures = report["out_of_fold"]["made up"]["unseen rows"]
    assert set(figures) == {"apgr", "apgr_per_fold", "apgr_mean_of_folds", "ece_weak_wrong", "abstained"}
    assert len(figures["apgr_per_fold"]) == 5


def test_of_two_sets_each_is_also_held_out_whole():
    report = train([*ROWS[:120], *labelled(120, 5, "other")], "difficulty", "t", bits=BITS).report
    assert set(report["out_of_fold"]) == {"made up", "other"}
    assert {"unseen rows", "unseen set"} <= set(report["out_of_fold"]["other"])


def test_too_few_rows_and_rows_of_one_outcome_teach_nothing():
    with pytest.raises(TooFewLabels, match="fewer"):
        train(ROWS[:20], "two", "t", bits=BITS)
    alike = [Labelled(str(n), key_of(f"prompt {n} x"), "s", f"prompt {n} x", 1.0, 1.0) for n in range(60)]
    with pytest.raises(TooFewLabels, match="alike"):
        train(alike, "two", "t", bits=BITS)


def test_a_difficulty_head_has_the_known_directions_and_few_words(design: Design):
    weak = np.asarray([row.weak_ok for row in ROWS])
    data = fit_difficulty(design, weak, np.zeros(len(ROWS), np.intp), "d", by_id(ROWS), ByUnitWeights())
    head = parse(data).heads[0]
    weights = dict(zip(parse(data).names, head.weights, strict=True))
    assert weights["distinct_words"] == -weights["length"] < 0
    assert weights["clauses"] == pytest.approx(weights["length"] / 2)
    without = fit_difficulty(design, weak, np.zeros(len(ROWS), np.intp), "d", by_id(ROWS), ByUnitWeights(words=0.0))
    assert not any(parse(without).heads[0].words)


def test_words_are_held_to_their_share_of_the_structures_spread(design: Design):
    names = tuple(ByUnitWeights().weights)
    numbers = scaled(design, scales_of(design, names, np.ones(len(design))))
    wrong = np.asarray([1.0 - row.weak_ok for row in ROWS])
    head = unit_head(numbers, design.words, wrong, np.ones(len(ROWS)), ByUnitWeights(words=0.2))
    spoken, built = design.words @ head.words, numbers @ head.weights
    assert spoken.std() == pytest.approx(0.2 * built.std())
    assert float((spoken + head.bias).mean()) == pytest.approx(0.0, abs=1e-9)


def test_sets_weigh_alike_and_graded_outcomes_count_by_their_share():
    assert even_weights(np.asarray([0, 0, 0, 1])).tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2.0])
    event, weight = events(np.asarray([0.25, 1.0]))
    assert event.tolist() == [True, True, False, False]
    assert weight.tolist() == [0.25, 1.0, 0.75, 0.0]


def test_isotonic_straightens_a_head_that_is_too_sure_and_ties_nothing():
    draw = np.random.default_rng(3)
    logit = draw.normal(0.0, 1.5, 6_000)
    happened = (draw.random(6_000) < 1 / (1 + np.exp(-0.4 * logit))).astype(float)
    curve = isotonic(logit[:3_000], happened[:3_000], np.ones(3_000))
    honest = np.asarray([curve.at(value) for value in logit[3_000:].tolist()])
    before = ece(happened[3_000:] > 0.5, 1 / (1 + np.exp(-logit[3_000:])))
    after = ece(happened[3_000:] > 0.5, 1 / (1 + np.exp(-honest)))
    assert after < before / 3
    assert (np.argsort(honest) == np.argsort(logit[3_000:])).all()


def test_a_lower_bound_lies_below_what_came_of_the_gain_and_rises():
    draw = np.random.default_rng(4)
    predicted = draw.uniform(-0.2, 0.4, 3_000)
    came = (draw.random(3_000) < np.maximum(predicted, 0)).astype(float)
    curve = lower_bound(predicted, came)
    assert curve.at(-0.2) <= 0.0
    assert 0.1 < curve.at(0.35) < 0.35
    assert list(curve.ys) == sorted(curve.ys)


def test_platt_never_turns_a_head_around():
    logit = np.linspace(-2, 2, 200)
    slope, _ = platt(logit, (logit < 0).astype(float), np.ones(200))
    assert slope == 0.02


def test_slices_that_are_hard_for_both_are_found_and_left_out():
    draw = np.random.default_rng(1)

    def rows(task: str, n: int, weak: float, strong: float, options: str = "") -> list[Labelled]:
        prompts = [f"{task} {number}: what of it?{options}" for number in range(n)]
        return [
            Labelled(p, key_of(p), "s", p, float(draw.random() < weak), float(draw.random() < strong), task)
            for p in prompts
        ]

    numeric = "\nA. 1\nB. 2\nC. 3\nD. 4"
    given = [
        *rows("easy", 1_000, 0.85, 0.97),
        *rows("worth it", 400, 0.5, 0.9),
        *rows("hopeless", 200, 0.3, 0.2),
        *rows("sums", 200, 0.4, 0.4, numeric),
    ]
    found, kept = misleading(given, Design.of([row.prompt for row in given], BITS))
    assert {slice_.slice_name for slice_ in found} == {"hopeless", "sums", NUMERIC_OPTIONS}
    assert [bool(kept[number]) for number in (0, 1_000, 1_400, 1_600)] == [True, True, False, False]


def test_the_gate_is_shown_only_rows_that_the_snapshot_never_saw(two: bytes):
    snapshot = parse(two)
    with pytest.raises(DataRefused, match="every one"):
        judged(snapshot, ROWS, frozenset(row.key for row in ROWS))
    more = labelled(400, seed=3)
    outcome = judged(snapshot, [*ROWS, *more], frozenset(row.key for row in ROWS))
    assert outcome.labels == 400
    assert {verdict.name for verdict in outcome.verdicts} == {"difficulty", "difference"}
    assert {"length", "task prior"} == set(outcome.rulers)


def test_a_snapshot_without_its_keys_is_not_judged(tmp_path: Path, two: bytes):
    file, data = tmp_path / "two.snapshot", tmp_path / "rows.jsonl.gz"
    file.write_bytes(two)
    rows = [{"id": r.row_id, "prompt": r.prompt, "weak_ok": 1, "strong_ok": 1} for r in ROWS]
    data.write_bytes(gzip.compress("\n".join(json.dumps(row) for row in rows).encode()))
    missing = RUNNER.invoke(app, ["promote", str(file), str(data)])
    assert missing.exit_code == 2
    assert "keys" in missing.output
    file.with_name("two.snapshot.keys").write_bytes(b"12345")
    assert RUNNER.invoke(app, ["promote", str(file), str(data)]).exit_code == 2
    file.with_name("two.snapshot.keys").write_bytes(b"")
    refused = RUNNER.invoke(app, ["promote", str(file), str(data)])
    assert refused.exit_code == 1
    assert "no head may act" in refused.output


def test_the_committed_cold_start_is_a_difficulty_signal_with_known_sources():
    snapshot = cold_start()
    assert [head.name for head in snapshot.heads] == ["difficulty"]
    folder = Path("serve_app/routing/cold_start")
    report = json.loads((folder / "difficulty-v1.snapshot.report.json").read_text("utf-8"))
    assert report["digest"] == snapshot.digest == hashlib.sha256(cold_start_bytes()).hexdigest()
    assert all(source["licence"].startswith(("Apache-2.0", "MIT")) for source in report["sources"])
    assert {source["file"] for source in report["sources"]} == {f"{name}.jsonl.gz" for name in report["sets"]}
    assert len(unpacked_keys((folder / "difficulty-v1.snapshot.keys").read_bytes())) == report["rows"]["learned_from"]
    hello, hard = (
        score((read(text),), snapshot).difficulty
        for text in (
            "Hello!",
            "Prove that if two of the three lemmas hold, then the larger bound is equal to the rest.",
        )
    )
    assert hello < 0.1 < 0.2 < hard


def _folder() -> DataFolder:
    if not (BESIDE_REPOSITORY / "MANIFEST.json").exists():
        pytest.skip(f"the public label sets are not at {BESIDE_REPOSITORY}")
    return DataFolder.open(BESIDE_REPOSITORY)


def test_heads_of_one_benchmark_are_refused_on_the_other():
    folder = _folder()
    mmlu = folder.labelled(MMLU)
    fold = few(mmlu, 1_500, 0)
    learned, fresh = picked(mmlu, fold.train), picked(mmlu, fold.test[:1_500])
    trained = train(learned, "two", "mmlu", measure=False)
    snapshot = parse(trained.snapshot)
    assert judged(snapshot, folder.labelled(GSM8K), unpacked_keys(trained.keys)).acts is None
    # At home it does what the prototype's bars ask for.
    at_home = scored([row.prompt for row in fresh], snapshot)
    assert apgr(outcomes(fresh), ordering(at_home)) >= 0.62
    assert ece(outcomes(fresh).weak < 0.5, [one.difficulty for one in at_home]) <= 0.03


@pytest.mark.skipif("GATEHOUSE_FULL_ROUTER" not in os.environ, reason="GATEHOUSE_FULL_ROUTER=1 learns from whole sets")
def test_the_other_way_round_is_refused_too_and_the_cold_start_beats_length_where_it_never_was():
    folder = _folder()
    mmlu, gsm8k = folder.labelled(MMLU), folder.labelled(GSM8K)
    back = train(gsm8k, "two", "gsm8k", measure=False)
    assert judged(parse(back.snapshot), mmlu, unpacked_keys(back.keys)).acts is None
    alone = train(mmlu, "difficulty", "mmlu", measure=False)
    told = outcomes(list(gsm8k))
    ours = apgr(told, ordering(scored([row.prompt for row in gsm8k], parse(alone.snapshot))))
    assert ours > apgr(told, [len(row.prompt) for row in gsm8k]) > 0.5

"""The learned score: sums that add up, abstention, and the same bytes in every process."""

import hashlib
import math
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.calibrate import Curve, logit_of, squash
from router.features import read
from router.hashing import MOST_WORDS, hashed
from router.heads import logit_terms, sight
from router.score import EARLIER, NO_SURE_GAIN, Score, score
from router.snapshot import parse
from router.structure import NAMES, structure
from router.types import Arm, Effort, Tier
from tests.unit.router.learned import BITS, KNOWN, difficulty_bytes, numbers, two_heads_bytes

DIFFICULTY = parse(difficulty_bytes())
TWO = parse(two_heads_bytes())


def total(scored: Score) -> float:
    return math.fsum(value for _, value in scored.contributions)


def test_the_logit_is_what_one_can_add_up_by_hand():
    scored = score((read(KNOWN),), DIFFICULTY)
    unit = 1 / math.sqrt(len(numbers(KNOWN)))
    length = 0.5 * (math.log1p(len(KNOWN)) - 4.0) / 0.5
    clauses = 0.25 * (math.log1p(2) - 0.5) / 0.25
    words = unit * (0.75 - 0.5)
    raw = -0.3 + length + clauses + words
    assert 0.0 < raw < 2.0
    calibrated = -0.5 + raw / 2.0 * 1.5
    assert dict(scored.contributions) == pytest.approx(
        {"bias": -0.3, "length": length, "clauses": clauses, "words": words, "calibration": calibrated - raw}, abs=1e-6
    )
    assert scored.difficulty == pytest.approx(squash(calibrated), abs=1e-6)
    assert (scored.gain, scored.gain_low, scored.abstained, scored.arms) == (None, None, None, ())


@given(st.text(max_size=400), st.text(max_size=400))
def test_shown_terms_sum_to_the_difficulty_with_nothing_left_over(newest: str, before: str):
    for snapshot in (None, DIFFICULTY, TWO):
        scored = score((read(newest), read(before)), snapshot)
        assert round(squash(total(scored)), 6) == scored.difficulty
        assert 0.0 <= scored.difficulty <= 1.0


def test_two_heads_give_the_gain_its_bound_and_the_arms():
    text = KNOWN.replace("river", "engine")
    scored = score((read(text),), TWO)
    seen = sight(read(text), TWO.scales, TWO.seen, BITS)
    weak, strong = (squash(math.fsum(v for _, v in logit_terms(head, seen, TWO.names))) for head in TWO.heads)
    assert scored.difficulty == pytest.approx(1 - weak, abs=2e-6)
    assert scored.gain == pytest.approx(strong - weak, abs=2e-6)
    assert scored.gain > 0.5  # beyond the last knot the bound stays where it is
    assert scored.gain_low == 0.3
    assert scored.abstained is None
    assert scored.arms == (
        (Arm(Tier.BASE, Effort.MEDIUM), pytest.approx(weak, abs=2e-6)),
        (Arm(Tier.STRONG, Effort.MEDIUM), pytest.approx(strong, abs=2e-6)),
    )


def test_a_gain_whose_lower_bound_is_not_above_nothing_abstains():
    scored = score((read(KNOWN),), parse(two_heads_bytes(weak_bias=3.0, strong_bias=1.0)))
    assert scored.gain is not None
    assert scored.gain_low is not None
    assert scored.gain_low <= 0
    assert scored.abstained == NO_SURE_GAIN


def test_wording_that_was_never_met_says_nothing_and_structure_still_does():
    text = "Берёза стоит, река течёт, prove" + " и неизвестное слово" * 3
    scored = score((read(text),), DIFFICULTY)
    assert scored.abstained is not None
    assert "60%" in scored.abstained
    assert "words" not in dict(scored.contributions)
    assert "length" in dict(scored.contributions)
    mostly_known = score((read(KNOWN + " unheard"),), DIFFICULTY)
    assert mostly_known.abstained is None


def test_beyond_the_training_range_it_abstains_and_names_the_feature():
    assert score((read(KNOWN + "." * 1_000),), DIFFICULTY).abstained is None
    scored = score((read(KNOWN + "." * 2_000),), DIFFICULTY)
    assert scored.abstained == "outside what training saw: length"


def test_a_feature_far_out_is_cut_at_four_deviations():
    terms = dict(score((read("x" * 60_000),), DIFFICULTY).contributions)
    assert terms["length"] == 4 * 0.5


def test_an_earlier_harder_turn_counts_decayed_and_the_terms_still_sum():
    # `KNOWN` three times over is hard, and a word is not.
    hard = read(" ".join([KNOWN] * 3))
    scored = score((read("river"), hard), DIFFICULTY)
    alone, newest = score((hard,), DIFFICULTY).difficulty, score((read("river"),), DIFFICULTY).difficulty
    assert newest < scored.difficulty == pytest.approx(0.6 * alone, abs=1e-5)
    assert EARLIER in dict(scored.contributions)
    two_back = score((read("river"), read("river"), hard), DIFFICULTY)
    assert two_back.difficulty == pytest.approx(max(newest, 0.36 * alone), abs=1e-5)
    assert score((read("river"), read("river"), read("river"), hard), DIFFICULTY).difficulty == newest


@pytest.mark.parametrize(
    ("x", "y"),
    [(-3.0, -3.5), (-1.0, -1.5), (-0.5, -1.0), (0.0, -0.5), (1.0, 0.25), (2.0, 1.0), (5.0, 4.0)],
    ids=str,
)
def test_a_calibration_is_straight_between_knots_and_goes_on_beyond(x: float, y: float):
    assert Curve((-1.0, 0.0, 2.0), (-1.5, -0.5, 1.0)).at(x) == pytest.approx(y)


def test_a_curve_without_knots_changes_nothing_and_one_of_slope_0_stays():
    assert Curve().at(0.7) == 0.7
    assert Curve((0.0, 1.0), (0.1, 0.2), slope=0.0).at(9.0) == 0.2
    assert Curve((0.0, 1.0), (0.1, 0.2), slope=0.0).at(-9.0) == 0.1


def test_logits_and_probabilities_invert_each_other_and_never_overflow():
    assert squash(logit_of(0.3)) == pytest.approx(0.3)
    assert (squash(1e6), squash(-1e6)) == (1.0, 0.0)
    assert logit_of(0.0) == pytest.approx(-13.8155, abs=1e-4)
    assert logit_of(1.0) == pytest.approx(13.8155, abs=1e-4)


def test_words_are_hashed_once_each_with_their_pairs_and_numbers_are_one_word():
    singles, together = hashed(("a", "b", "a", "b"), 32)
    assert (len(singles), len(together)) == (2, 4)  # a, b, ab, ba
    assert hashed(("17", "b"), 32) == hashed(("4", "b"), 32)
    assert all(number < 1 << 8 for number in hashed(("a", "b", "c"), 8)[1])


def test_of_many_words_the_first_and_the_last_are_hashed():
    words = tuple(f"w{'x' * place}" for place in range(400))
    singles, _ = hashed(words, 32)
    assert len(singles) == MOST_WORDS
    assert hashed(words[-1:], 32)[0] <= singles
    assert hashed(words[:1], 32)[0] <= singles
    assert not hashed(words[200:201], 32)[0] <= singles


def named(text: str) -> dict[str, float]:
    return dict(zip(NAMES, structure(read(text)), strict=True))


def test_structure_counts_what_it_says():
    question = (
        "If three ships carry 40 crates, and each is longer than the most heavy one, which is not right? How many "
        "are left?\nA. 10 blue crates\nB. 20 blue crates\nC. 30 red boxes"
    )
    found = named(question)
    assert found["has_options"] == 1.0
    assert found["numeric_options"] == 1.0
    assert found["option_similarity"] == pytest.approx((2 / 4 + 0 + 0) / 3)
    assert found["stem_length"] == pytest.approx(math.log1p(question.index("A. 10")))
    assert found["conditions"] == pytest.approx(math.log1p(1))
    assert found["comparisons"] == pytest.approx(math.log1p(3))  # longer, than, most
    assert found["clauses"] == pytest.approx(math.log1p(2))
    assert found["quantities"] == pytest.approx(math.log1p(4 + 2))  # 40, 10, 20, 30; three, one
    assert (found["which"], found["how_many"], found["what"]) == (1.0, 1.0, 0.0)
    assert found["negations"] == pytest.approx(math.log1p(1))


def test_a_text_without_options_has_none():
    found = named("Write a poem about the sea.")
    assert [found[name] for name in ("has_options", "option_length", "option_similarity", "numeric_options")] == [0] * 4


def test_scripts_without_blanks_are_as_long_as_what_they_say():
    chinese = named("系统出现故障请排查根本原因并且给出修复步骤" * 3)
    assert chinese["length"] > named("word" * 15)["length"]
    assert chinese["distinct_words"] == named("系统出现故障请排查根本原因")["distinct_words"] < 1.0


_PROCESS = """
import sys
from router.features import read
from router.score import score
from router.snapshot import parse
snapshot = parse(open(sys.argv[1], "rb").read())
for text in ("Prove it, if you can, for every river.", "写一个函数", "a b c " * 300, ""):
    print(repr(score((read(text), read("an earlier, longer turn, with more")), snapshot)), snapshot.digest)
left = {"numpy", "scipy", "sklearn", "matplotlib"} & sys.modules.keys()
assert not left, left
"""


@pytest.mark.parametrize("data", [difficulty_bytes(), two_heads_bytes()], ids=["difficulty", "two"])
def test_two_processes_say_the_same_bytes_without_any_learner(tmp_path, data: bytes):
    file = tmp_path / "snapshot"
    file.write_bytes(data)
    said = [
        subprocess.run(
            [sys.executable, "-c", _PROCESS, str(file)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1]
    assert hashlib.sha256(data).hexdigest().encode() in said[0]

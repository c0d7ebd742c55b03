import math
import re
import zlib

from hypothesis import given
from hypothesis import strategies as st

from router.features import read
from router.hashing import hashed
from router.lexicon import Group
from router.score import score
from router.structure import NAMES, structure


def test_hand_features_are_counted():
    features = read("Prove that 2 + 2 = 4.\n1. Start\n2. End\nWhy?").features
    assert features.numbers == 5
    assert features.questions == 1
    assert features.lines == 4
    assert features.steps == 2
    assert features.count(Group.PROOF) == 1
    assert features.math_marks == 2


def test_scripts_without_blanks_have_words_too():
    assert read("系统出现故障请排查根本原因").features.words > 5


def test_a_word_counts_once_per_group_however_often_it_is_said():
    assert read("error error error error").features.count(Group.FAILURE) == 1


def test_length_is_of_the_whole_text_and_the_rest_of_a_window():
    features = read("word " * 20_000).features
    assert features.characters == 100_000
    assert features.words < 1_000


@given(st.text(max_size=300))
def test_any_text_has_features_and_a_difficulty(text: str):
    passage = read(text)
    scored = score((passage,))
    assert 0.0 <= scored.difficulty <= 1.0
    assert 0.0 <= passage.features.upper_share <= 1.0


def test_the_terms_sum_to_the_logit_also_when_an_earlier_turn_was_harder():
    hard = read("Prove by induction that the algorithm is optimal. " * 40)
    scored = score((read("Shorter please"), hard))
    logit = sum(value for _, value in scored.contributions)
    assert math.isclose(1 / (1 + math.exp(-logit)), scored.difficulty, abs_tol=1e-4)
    assert "earlier_turns" in dict(scored.contributions)


def test_an_earlier_turn_counts_less_than_the_newest():
    easy, hard = read("What is DNS?"), read("Prove by induction that the algorithm is optimal. " * 40)
    assert score((easy,)).difficulty < score((easy, hard)).difficulty < score((hard,)).difficulty


def test_longer_is_harder_when_nothing_else_differs():
    assert score((read("x " * 500),)).difficulty > score((read("x " * 20),)).difficulty


SIGNS = st.text(alphabet="aB1 2.,;:?!-*)(\n\t\r\x1c", max_size=60)


@given(SIGNS)
def test_what_is_counted_in_a_quick_way_is_what_the_plain_pattern_finds(text: str):
    passage = read(text)
    numbers = re.findall(r"[0-9]+(?:[.,][0-9]+)*", text)
    assert passage.features.numbers == len(numbers)
    assert passage.features.longest_number == max(map(len, numbers), default=0)
    assert passage.features.steps == len(re.findall(r"^\s{0,8}(?:\d{1,2}[.)]|[-*])\s", text, re.MULTILINE))
    options = re.findall(r"^\s{0,4}\(?[A-Ha-h][.)]\s", text, re.MULTILINE)
    assert passage.features.answer_options == len(options)
    if len(options) < 2:
        ends = re.findall(r"[.?!;:](?:\s|$)", passage.lowered)
        assert structure(passage)[NAMES.index("sentences")] == math.log(len(ends) + 1)


@given(st.lists(st.text(alphabet="ab1é-'\ud800", min_size=1, max_size=4), max_size=20))
def test_words_and_pairs_are_numbered_one_by_one(words: list[str]):
    plain = [
        b"0" if any(sign in "0123456789" for sign in word) else word.encode("utf-8", "surrogatepass") for word in words
    ]
    alone = {zlib.crc32(word) % 256 for word in plain}
    pairs = {zlib.crc32(first + second) % 256 for first, second in zip(plain, plain[1:], strict=False)}
    assert hashed(words, 8) == (alone, alone | pairs)

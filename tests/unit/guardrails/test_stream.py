"""A text in pieces is masked as the whole of it, and little of it waits."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.guardrails.guard import RULES
from deployments.guardrails.look import Look
from deployments.guardrails.rules import LONGEST
from deployments.guardrails.scan import Scanner
from deployments.guardrails.segments import AHEAD
from deployments.guardrails.stream import WINDOW, TextScreen
from deployments.guardrails.values import Action, Detector, Direction
from tests.unit.guardrails.samples import ALL, CLEAN, PEM, WORD

GLUE = ["", " ", "  ", "    ", "\t", "\n", " \n", '"', ",", '",', '"}', ":", "=", " = ", "--", "-", ".", "(", "+", "@",
        "hello", "world,", "AB", "12", "4111", "日本", "é", "\u3000", "\\n", "Bearer ", "password", "-----BEGIN ",
        "PRIVATE KEY-----", "🙂"]  # fmt: skip
SAMPLES = [around.format(what) for _, around, what in ALL]
texts = st.lists(st.one_of(st.sampled_from(SAMPLES), st.sampled_from(GLUE), st.text(max_size=6)), max_size=24).map(
    "".join
)
cuts = st.lists(st.integers(1, 40), min_size=1, max_size=30)


def look(pii: Action = Action.MASK, secrets: Action = Action.MASK) -> Look:
    return Look(Scanner(RULES, {Detector.PII: pii, Detector.SECRETS: secrets}), True, Direction.OUTPUT)


def in_pieces(text: str, sizes: Sequence[int], how: Look) -> tuple[str, bool]:
    screen, out, at, turn = TextScreen(how), list[str](), 0, 0
    while at < len(text):
        size = sizes[turn % len(sizes)]
        out.append(screen.feed(text[at : at + size]))
        at, turn = at + size, turn + 1
    return "".join([*out, screen.end()]), screen.blocked


@settings(max_examples=300, deadline=None)
@given(texts, cuts)
def test_pieces_are_masked_as_the_whole(text: str, sizes: list[int]) -> None:
    whole, pieces = look(), look()
    assert in_pieces(text, sizes, pieces)[0] == whole.screen(text).text
    assert pieces.tally.found == whole.tally.found


@settings(max_examples=200, deadline=None)
@given(texts, cuts)
def test_pieces_are_blocked_where_the_whole_is(text: str, sizes: list[int]) -> None:
    whole = look(secrets=Action.BLOCK).screen(text)
    assert in_pieces(text, sizes, look(secrets=Action.BLOCK)) == (whole.text, whole.blocked)


@pytest.mark.parametrize("filler", ["a", "A1", "=@", "-x:", WORD], ids=str)
@pytest.mark.parametrize("sample", range(0, len(ALL), 9))
def test_a_text_without_a_place_to_cut_goes_on_as_well(filler: str, sample: int) -> None:
    """Whatever stands at the edge of the window, pieces and whole agree, and no more than the window waits."""
    _, around, what = ALL[sample]
    long = filler * (WINDOW // len(filler))
    for shift in (0, LONGEST - 20):
        text = f"{long[shift:]}{around.format(what)}{long}{what} end"
        one, _ = in_pieces(text, [len(text)], look())
        many, _ = in_pieces(text, [997, 4001], look())
        assert one == many


def test_no_more_than_the_window_waits() -> None:
    screen = TextScreen(look())
    for _ in range(3 * WINDOW // 100):
        screen.feed("a" * 100)
        assert screen.held <= WINDOW + AHEAD + 100


@pytest.mark.parametrize("name", CLEAN)
def test_prose_waits_for_one_word_and_leaves_as_it_came(name: str) -> None:
    screen, text, out = TextScreen(look()), CLEAN[name], ""
    for letter in text:
        out += screen.feed(letter)
        assert text.startswith(out)
        assert screen.held <= 130
    assert out + screen.end() == text


def test_a_private_key_waits_for_its_end_and_not_for_ever() -> None:
    screen = TextScreen(look())
    head = PEM[: PEM.index("MII")]
    assert screen.feed(f"see {head}") == "see "
    assert screen.feed("It is only spoken of. " * 10) == ""
    said = "".join(screen.feed("It is only spoken of. ") for _ in range(600))
    assert said.startswith(head)


def test_after_the_end_another_text_may_begin() -> None:
    screen = TextScreen(look())
    assert screen.feed("4111 1111") + screen.end() == "4111 1111"
    assert screen.feed(" 1111 1111") + screen.end() == " 1111 1111"

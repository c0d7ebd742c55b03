import hmac
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.tenancy.keys import ALPHABET, PREFIX_CHARS, SECRET_CHARS, digest, generate, matches, parse

PEPPER = b"p" * 32
_ENTROPY = st.binary(min_size=40, max_size=40)


@given(_ENTROPY)
def test_a_generated_key_parses_to_itself(entropy: bytes) -> None:
    key = generate(entropy)
    assert parse(key.text) == key
    assert key.text == f"gh-{key.prefix}{key.text[-SECRET_CHARS:]}"
    assert len(key.prefix) == PREFIX_CHARS


@given(st.text())
def test_no_text_makes_parsing_fail(presented: str) -> None:
    key = parse(presented)
    assert key is None or key.text == presented


@pytest.mark.parametrize(
    "presented",
    ["", "gh-", "sk-" + "a" * 40, "gh-" + "a" * 39, "gh-" + "a" * 41, "gh-" + "a" * 39 + "-", "gh-" + "a" * 40 + "\n"],
)
def test_what_is_not_a_key_is_none(presented: str) -> None:
    assert parse(presented) is None


def test_the_secret_is_drawn_from_the_whole_alphabet() -> None:
    seen = Counter("".join(generate(bytes([number % 256]) * 7 + bytes(33 + number)).text[3:] for number in range(400)))
    assert set(seen) == set(ALPHABET)
    assert len(ALPHABET) ** SECRET_CHARS > 2**160


def test_too_little_randomness_is_refused() -> None:
    with pytest.raises(ValueError, match="40 random bytes"):
        generate(b"short")


def test_what_is_stored_depends_on_key_and_pepper() -> None:
    one, other = generate(b"1" * 40).text, generate(b"2" * 40).text
    assert digest(PEPPER, one) == hmac.new(PEPPER, one.encode(), "sha256").digest()
    assert len({digest(PEPPER, one), digest(PEPPER, other), digest(b"q" * 32, one)}) == 3
    assert matches(PEPPER, one, digest(PEPPER, one))
    assert not matches(PEPPER, other, digest(PEPPER, one))


def test_a_key_does_not_show_in_a_log() -> None:
    key = generate(b"3" * 40)
    assert key.text[-SECRET_CHARS:] not in f"{key} {key!r}"

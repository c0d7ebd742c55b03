"""What each rule finds, and what none does."""

import re

import pytest

from deployments.guardrails import checksums, pii, secrets
from deployments.guardrails.guard import RULES
from deployments.guardrails.look import Look
from deployments.guardrails.rules import LONGEST
from deployments.guardrails.scan import Scanner
from deployments.guardrails.stream import _PLAIN  # pyright: ignore[reportPrivateUsage]
from deployments.guardrails.values import Action, Detector, Direction, placeholder
from tests.unit.guardrails.samples import ALL, CLEAN, PEM, WORD

EVERYTHING = Scanner(RULES, {Detector.PII: Action.MASK, Detector.SECRETS: Action.MASK})


def masked(text: str) -> str:
    return Look(EVERYTHING, True, Direction.INPUT).screen(text).text


@pytest.mark.parametrize(("kind", "around", "what"), ALL, ids=[f"{kind}-{n}" for n, (kind, _, _) in enumerate(ALL)])
def test_what_is_there_is_masked_whole_and_nothing_else(kind: str, around: str, what: str) -> None:
    assert masked(around.format(what)) == around.format(placeholder(kind))


@pytest.mark.parametrize(("kind", "around", "what"), ALL, ids=[f"{kind}-{n}" for n, (kind, _, _) in enumerate(ALL)])
def test_among_other_text_it_is_found_as_well(kind: str, around: str, what: str) -> None:
    text = f"日本{around.format(what)}\n" + CLEAN["lorem"]
    assert what not in masked(f"{CLEAN['lorem']}\n{text}")


@pytest.mark.parametrize("name", CLEAN)
def test_ordinary_text_is_left_as_it_is(name: str) -> None:
    assert masked(CLEAN[name]) == CLEAN[name]


@pytest.mark.parametrize("rule", RULES, ids=[f"{rule.kind}-{n}" for n, rule in enumerate(RULES)])
def test_every_rule_has_a_sample_and_a_placeholder_that_no_rule_finds(rule: object) -> None:
    kind = rule.kind  # type: ignore[attr-defined]
    assert any(kind == known for known, _, _ in ALL)
    for text in (placeholder(kind), f'password = "{placeholder(kind)}"', f"Bearer {placeholder(kind)}"):
        assert masked(text) == text


def test_masking_twice_is_masking_once() -> None:
    text = " and ".join(around.format(what) for _, around, what in ALL)
    assert masked(masked(text)) == masked(text)


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112",  # Luhn
        "4444444444444444",  # all alike
        "DE89 3704 0044 0532 0130 01",  # MOD 97
        "XX89370400440532013000",  # no such country
        "000-45-6789", "666-45-6789", "900-45-6789", "123-00-6789", "123-45-0000",
        "GB123456A",  # no such prefix
        "86 095 742 718", "12345678901",  # the check digit; no digit twice
        "1 85 13 99 006 084 92",
        "12345678A", "RSSMRA85T10A562T", "529.982.247-26", "111.111.111-11",
        "git@github.com", "react@18.2.0", "a@b", "@example.com", "user@host",
        "+12", "1234567", "+1 2 3",
        "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----",
        "It begins with -----BEGIN PRIVATE KEY----- and that is all.",
        "sk-circle-fading-in-and-out-of-view", "ghp_short", "Bearer authentication-is-required",
    ],
)  # fmt: skip
def test_what_only_looks_like_it_is_left(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize(("kind", "around", "what"), ALL, ids=[f"{kind}-{n}" for n, (kind, _, _) in enumerate(ALL)])
def test_every_match_has_what_the_quick_look_looks_for(kind: str, around: str, what: str) -> None:
    assert _PLAIN.search(what if kind != "credential" else around.format(what)) is not None


def test_a_match_is_never_longer_than_the_window_allows() -> None:
    key = PEM.replace(WORD, f"{WORD}\n" * 400)
    texts = [key, f"Bearer {'a1' * 9000}", f"password='{'a1' * 9000}'", f"eyJ{'a' * 9000}.{'b' * 9000}.{'c' * 9000}"]
    for text in texts:
        for rule in RULES:
            assert all(end - begin <= LONGEST for begin, end in rule.find(text, 0, len(text)))


@pytest.mark.parametrize(
    ("value", "quoted", "secret"),
    [
        ("hunter2x", False, True), ("hunterxx", False, False), ("12345678", False, False),
            ("self.pass2", False, False),
        ("/run/secret1", True, False), ("https://x.example/1", True, False), ("user_id", True, False),
        ("next-page-2", True, False), ("Tr0ub4dor", True, True), ("correct horse", True, False),
        ("aaaaaaaa1", True, False),
    ],
)  # fmt: skip
def test_a_secret_is_told_from_a_word(value: str, quoted: bool, secret: bool) -> None:
    assert secrets.looks_secret(value, quoted) is secret


@pytest.mark.parametrize("name", ["password", "DB_PASSWORD", "apiKey", "api-key", "clientSecret", "access_token"])
def test_telling_names(name: str) -> None:
    assert secrets.telling(name)


@pytest.mark.parametrize("name", ["key", "tokens", "max_tokens", "keyboard", "primary_key", "secretary", ""])
def test_names_that_tell_nothing(name: str) -> None:
    assert not secrets.telling(name)


def test_check_digits_catch_every_single_wrong_digit() -> None:
    checks = [(checksums.luhn, "4111111111111111"), (checksums.is_de_tax_id, "86095742719"),
              (checksums.is_br_cpf, "52998224725")]  # fmt: skip
    for check, good in checks:
        assert check(good)
        for at, digit in enumerate(good):
            for other in set("0123456789") - {digit}:
                assert not check(good[:at] + other + good[at + 1 :])


def test_kinds_are_words_that_a_metric_may_have_as_a_label() -> None:
    for kind in (*pii.KINDS, *secrets.KINDS):
        assert re.fullmatch(r"[a-z][a-z0-9_]{1,31}", kind)

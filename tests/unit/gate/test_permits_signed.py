"""Permits as tokens: every claim and every path of a binding counts, and nothing but the pinned form is read."""

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from deployments.gate.binding import ActionBinding
from deployments.gate.permits import (
    ISSUER,
    LEEWAY_S,
    OFFLINE,
    ONLINE,
    TYPE,
    BadPermit,
    Claims,
    PermitKey,
    binding_object,
    digest_of,
    lifetime_ms,
    profile_of,
    sign,
    verify,
)
from deployments.ports import JsonValue, Risk

RUNNER = "gatehouse-run@here"
NOW = 1_767_225_600
KEY = PermitKey.of(Ed25519PrivateKey.generate())
OTHER = PermitKey.of(Ed25519PrivateKey.generate())
JWKS: dict[str, JsonValue] = {"keys": [KEY.jwk()]}
BINDING = ActionBinding("1" * 32, "acme", "key_agent", "s1", "run", '{"command":"ls"}', "a" * 64)
CLAIMS = Claims(
    iss=ISSUER, aud=RUNNER, sub="key_agent", jti="prm_1", iat=NOW, nbf=NOW, exp=NOW + 300, act=BINDING.action_digest(),
    risk="R1", exec_profile=ONLINE, policy_digest="a" * 64, gate_call_id="1" * 32, approval_id="apr_1",
    change_id="CHG-1", rollback_digest="b" * 64, rollback_of="prm_0",
)  # fmt: skip
TOKEN = sign(CLAIMS, KEY)


def said() -> dict[str, Any]:
    return {name: value for name, value in asdict(CLAIMS).items() if value is not None}


def made(claims: Mapping[str, Any], headers: Mapping[str, Any] | None = None, key: PermitKey = KEY) -> str:
    """A token that is signed properly, whatever it says."""
    given_headers = {"typ": TYPE, "kid": key.kid, **(headers or {})}
    return jwt.encode(dict(claims), key.secret, algorithm="EdDSA", headers=given_headers)


def test_what_was_signed_is_what_is_read() -> None:
    assert verify(TOKEN, JWKS, RUNNER, NOW) == CLAIMS
    plain = replace(CLAIMS, approval_id=None, change_id=None, rollback_digest=None, rollback_of=None)
    assert verify(sign(plain, KEY), JWKS, RUNNER, NOW) == plain


def test_the_header_is_the_pinned_one() -> None:
    assert jwt.get_unverified_header(TOKEN) == {"alg": "EdDSA", "typ": TYPE, "kid": KEY.kid}


# --- every claim -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(said()))
def test_every_claim_is_under_the_signature(name: str) -> None:
    head, _, signature = TOKEN.split(".")
    value = said()[name]
    for other in (f"{value}x" if isinstance(value, str) else value + 1, "", None, 1, True, [value]):
        if other == value:
            continue
        body = base64.urlsafe_b64encode(json.dumps({**said(), name: other}).encode()).rstrip(b"=").decode()
        with pytest.raises(BadPermit):
            verify(f"{head}.{body}.{signature}", JWKS, RUNNER, NOW)


@pytest.mark.parametrize("name", sorted(set(said()) - {"approval_id", "change_id", "rollback_digest", "rollback_of"}))
def test_no_required_claim_may_be_missing_even_when_it_is_signed(name: str) -> None:
    claims = said()
    del claims[name]
    with pytest.raises(BadPermit):
        verify(made(claims), JWKS, RUNNER, NOW)


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "somebody"}, {"aud": "another"}, {"aud": [RUNNER]}, {"aud": ""}, {"sub": ""}, {"sub": 1}, {"jti": 7},
        {"iat": str(NOW)}, {"iat": NOW + 31}, {"iat": True}, {"iat": NOW - 1}, {"nbf": NOW + LEEWAY_S + 1},
        {"nbf": None}, {"exp": NOW - LEEWAY_S}, {"exp": NOW + 301}, {"exp": 1e12}, {"act": "b"}, {"act": "B" * 64},
        {"risk": "FORBIDDEN"}, {"risk": "R9"}, {"exec_profile": "anything"}, {"policy_digest": "a"},
        {"rollback_digest": "b"}, {"approval_id": 5}, {"admin": True}, {"env": "prod"},
    ],
    ids=str,
)  # fmt: skip
def test_what_a_permit_cannot_say_is_refused_even_when_it_is_signed(changes: dict[str, Any]) -> None:
    with pytest.raises(BadPermit):
        verify(made({**said(), **changes}), JWKS, RUNNER, NOW)


@pytest.mark.parametrize("at", [NOW - LEEWAY_S, NOW, NOW + 300, NOW + 300 + LEEWAY_S - 1])
def test_clocks_may_differ_by_thirty_seconds(at: int) -> None:
    assert verify(TOKEN, JWKS, RUNNER, at) == CLAIMS


@pytest.mark.parametrize("at", [NOW - LEEWAY_S - 1, NOW + 300 + LEEWAY_S, 0, NOW * 2])
def test_and_by_no_more(at: int) -> None:
    with pytest.raises(BadPermit):
        verify(TOKEN, JWKS, RUNNER, at)


# --- header and key --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"typ": "JWT"}, {"typ": "exec-permit"}, {"kid": "other"}, {"kid": None}, {"kid": ""}, {"kid": ["x"]},
        {"jwk": KEY.jwk()}, {"jku": "https://evil.example/jwks"}, {"crit": ["exp"]}, {"x5c": []}, {"b64": False},
    ],
    ids=lambda headers: "jwk" if "jwk" in headers else str(headers),  # a fresh key each run
)  # fmt: skip
def test_no_other_header_is_read(headers: dict[str, Any]) -> None:
    try:
        token = made(said(), headers)
    except (jwt.PyJWTError, TypeError):
        token = _raw({"alg": "EdDSA", "typ": TYPE, "kid": KEY.kid, **headers}, said())
    with pytest.raises(BadPermit):
        verify(token, JWKS, RUNNER, NOW)


def _raw(header: Mapping[str, Any], claims: Mapping[str, Any], signature: bytes = b"") -> str:
    parts = [json.dumps(header).encode(), json.dumps(claims).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def test_a_token_of_any_length_is_refused_before_or_after_it_is_read() -> None:
    for chars, says in ((16_384, "cannot be read"), (16_385, "too long")):
        with pytest.raises(BadPermit, match=says):
            verify("x" * chars, JWKS, RUNNER, NOW)


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "", "HS256", "ES256", "RS256", "PS512"])
def test_no_other_algorithm_is_read(alg: str) -> None:
    with pytest.raises(BadPermit, match="pinned algorithm"):
        verify(_raw({"alg": alg, "typ": TYPE, "kid": KEY.kid}, said()), JWKS, RUNNER, NOW)


def test_the_public_key_is_no_shared_secret() -> None:
    raw = KEY.secret.public_key().public_bytes_raw()
    token = jwt.encode(said(), raw, algorithm="HS256", headers={"typ": TYPE, "kid": KEY.kid})
    with pytest.raises(BadPermit):
        verify(token, JWKS, RUNNER, NOW)


@pytest.mark.parametrize(
    "jwks",
    [
        {}, {"keys": []}, {"keys": [OTHER.jwk()]}, {"keys": "x"}, {"keys": [{**KEY.jwk(), "kty": "oct"}]},
        {"keys": [{**KEY.jwk(), "crv": "X25519"}]}, {"keys": [{**KEY.jwk(), "x": "AAAA"}]}, {"keys": [None, 1]},
        {"keys": [{**OTHER.jwk(), "kid": KEY.kid}]},
    ],
    ids=range(9),
)  # fmt: skip
def test_only_the_pinned_key_counts(jwks: dict[str, JsonValue]) -> None:
    with pytest.raises(BadPermit):
        verify(TOKEN, jwks, RUNNER, NOW)


def test_an_older_key_that_is_still_published_verifies_what_it_signed() -> None:
    assert verify(TOKEN, {"keys": [OTHER.jwk(), KEY.jwk()]}, RUNNER, NOW) == CLAIMS


@given(st.text(max_size=200) | st.from_regex(r"[A-Za-z0-9_-]{0,80}\.[A-Za-z0-9_-]{0,80}\.[A-Za-z0-9_-]{0,90}"))
def test_anything_else_is_a_bad_permit_and_nothing_worse(token: str) -> None:
    with pytest.raises(BadPermit):
        verify(token, JWKS, RUNNER, NOW)


@given(st.integers(0, len(TOKEN) - 1), st.sampled_from("AZaz09-_.="))
def test_no_character_of_a_token_may_change(place: int, char: str) -> None:
    changed = TOKEN[:place] + char + TOKEN[place + 1 :]
    # The last character of a part has bits that base64url does not use.
    ends = {place for place, char in enumerate(TOKEN) if place + 1 == len(TOKEN) or TOKEN[place + 1] == "."}
    if changed == TOKEN or place in ends:
        return
    with pytest.raises(BadPermit):
        verify(changed, JWKS, RUNNER, NOW)


# --- the binding -----------------------------------------------------------------------------------------------------


def _mutants(binding: dict[str, JsonValue]) -> Iterator[tuple[str, dict[str, JsonValue]]]:
    for name, value in binding.items():
        for other in (f"{value}x", "", None, 0, [value], {"a": value}):
            yield f"{name}={other!r}", {**binding, name: other}
        yield f"without {name}", {key: each for key, each in binding.items() if key != name}
    yield "one more", {**binding, "extra": True}


def test_the_binding_hashes_to_its_digest() -> None:
    assert digest_of(binding_object(BINDING)) == BINDING.action_digest()


@pytest.mark.parametrize(("what", "mutant"), list(_mutants(binding_object(BINDING))), ids=lambda each: str(each)[:40])
def test_every_path_of_the_binding_is_in_the_digest(what: str, mutant: dict[str, JsonValue]) -> None:
    assert digest_of(mutant) != BINDING.action_digest(), what


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**60, "\ud800"])
def test_a_binding_without_a_canonical_form_has_no_digest(value: Any) -> None:
    with pytest.raises(BadPermit):
        digest_of({**binding_object(BINDING), "extra": value})


# --- class and profile -----------------------------------------------------------------------------------------------


def test_nothing_forbidden_has_a_lifetime() -> None:
    with pytest.raises(ValueError, match="FORBIDDEN"):
        lifetime_ms(Risk.FORBIDDEN)


@pytest.mark.parametrize(
    ("risk", "command", "profile"),
    [
        (Risk.R0, "git status", OFFLINE), (Risk.R0, "rg -n kube src", OFFLINE), (Risk.R0, "kubectl get pods", ONLINE),
        (Risk.R0, "psql -c 'select 1'", ONLINE), (Risk.R1, "git status", ONLINE), (Risk.R3, "ls", ONLINE),
    ],
)  # fmt: skip
def test_only_local_reads_go_without_a_network(risk: Risk, command: str, profile: str) -> None:
    assert profile_of(risk, json.dumps({"command": command})) == profile

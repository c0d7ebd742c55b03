"""What a permit must say to be believed, one rule at a time, at moments far from today's."""

import base64
import json
from dataclasses import asdict, replace
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

from deployments.gate.binding import ActionBinding
from deployments.gate.permits import ISSUER, LEEWAY_S, ONLINE, TYPE, BadPermit, Claims, PermitKey, sign, verify
from deployments.ports import JsonValue

RUNNER = "gatehouse-run@here"
KEY = PermitKey.of(Ed25519PrivateKey.generate())
JWKS: dict[str, JsonValue] = {"keys": [KEY.jwk()]}
BINDING = ActionBinding("1" * 32, "acme", "key_agent", "s1", "run", '{"command":"ls"}', "a" * 64)
LONG_AGO, FAR_AHEAD = 1_000_000_000, 4_102_444_800


def claims(now_s: int) -> Claims:
    return Claims(
        iss=ISSUER, aud=RUNNER, sub="key_agent", jti="prm_1", iat=now_s, nbf=now_s, exp=now_s + 300,
        act=BINDING.action_digest(), risk="R1", exec_profile=ONLINE, policy_digest="a" * 64, gate_call_id="1" * 32,
    )  # fmt: skip


def read(said: Claims, now_s: float) -> Claims:
    return verify(sign(said, KEY), JWKS, RUNNER, now_s)


@pytest.mark.parametrize("now_s", [LONG_AGO, FAR_AHEAD])
def test_the_time_is_the_one_that_is_given_and_not_that_of_this_machine(now_s: int) -> None:
    assert read(claims(now_s), now_s) == claims(now_s)


@pytest.mark.parametrize("claim", ["iat", "nbf"])
def test_the_later_of_issue_and_beginning_counts(claim: str) -> None:
    said = replace(claims(FAR_AHEAD), **{claim: FAR_AHEAD + 100})
    assert read(said, FAR_AHEAD + 100 - LEEWAY_S) == said
    with pytest.raises(BadPermit, match="not good yet"):
        read(said, FAR_AHEAD + 99 - LEEWAY_S)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"iss": "somebody"}, "somebody else"),
        ({"aud": "another"}, "another runner"),
        ({"act": "b" * 63}, "digest"),
        ({"act": "g" * 64}, "digest"),
        ({"policy_digest": "a" * 65}, "digest"),
        ({"rollback_digest": "5"}, "digest"),
        ({"risk": "FORBIDDEN"}, "class or a profile"),
        ({"exec_profile": "gatehouse-run/2"}, "class or a profile"),
        ({"exp": FAR_AHEAD + 301}, "longer than its class"),
        ({"sub": ""}, "'sub' is not of its kind"),
        ({"iat": True}, "'iat' is not of its kind"),
        ({"nbf": True}, "'nbf' is not of its kind"),
        ({"exp": float(FAR_AHEAD)}, "'exp' is not of its kind"),
    ],
    ids=str,
)
def test_each_rule_refuses_by_itself(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(BadPermit, match=says):
        read(replace(claims(FAR_AHEAD), **changes), FAR_AHEAD)


def test_another_curve_of_the_same_algorithm_is_not_the_pinned_one() -> None:
    """Ed448 is `EdDSA` too: a published key of it must not open a second way to sign."""
    secret = Ed448PrivateKey.generate()
    said = {name: value for name, value in asdict(claims(FAR_AHEAD)).items() if value is not None}
    token = jwt.encode(said, secret, algorithm="EdDSA", headers={"typ": TYPE, "kid": "other"})
    published = {**OKPAlgorithm.to_jwk(secret.public_key(), as_dict=True), "kid": "other"}
    assert jwt.decode(token, secret.public_key(), algorithms=["EdDSA"], audience=RUNNER, options={"verify_iat": False,
        "verify_nbf": False}) == said  # fmt: skip
    with pytest.raises(BadPermit, match="not pinned"):
        verify(token, {"keys": [published]}, RUNNER, FAR_AHEAD)


@pytest.mark.parametrize("kid", [None, 0, ["x"]], ids=str)
def test_a_published_key_without_a_name_is_no_key(kid: object) -> None:
    nameless = {**KEY.jwk(), "kid": kid}
    _, body, signature = sign(claims(FAR_AHEAD), KEY).split(".")
    header = json.dumps({"alg": "EdDSA", "typ": TYPE, "kid": kid}).encode()
    token = f"{base64.urlsafe_b64encode(header).rstrip(b'=').decode()}.{body}.{signature}"
    with pytest.raises(BadPermit, match="cannot be read"):
        verify(token, {"keys": [nameless]}, RUNNER, FAR_AHEAD)

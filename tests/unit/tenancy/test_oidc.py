"""Identity tokens in place of virtual keys, over the real ledger; the issuer is a key pair of the test."""

import asyncio
import base64
import dataclasses
import hmac
import json
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from pydantic import ValidationError

from deployments.clock import FixedClock
from deployments.errors import (
    AuditUnavailable,
    Forbidden,
    InvalidRequest,
    PartUnavailable,
    QuotaExceeded,
    Unauthenticated,
)
from deployments.ports import GateProfile, ModelId, Principal, RequestId, Scope, TenantId
from deployments.store import open_store, sqlite_url
from deployments.tenancy.jwks import KeySets, fetch_keys, parse_keys
from deployments.tenancy.ledger import KeyLedger
from deployments.tenancy.oidc_settings import IssuerSettings
from deployments.tenancy.settings import TenancySettings
from deployments.tenancy.store import TenancyStore
from tests.fakes_audit import InMemoryAudit

ISSUER = "https://id.example.com/realms/acme"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
DOCUMENT: dict[str, Any] = {
    "max_concurrent_requests": 8,
    "tenants": {"acme": {"teams": {"platform": {"concurrent_requests": 1}}}},
    "issuers": [
        {
            "issuer": ISSUER,
            "audience": "gatehouse",
            "jwks_url": "https://id.example.com/keys",
            "groups": {
                "sre": {
                    "tenant": "acme",
                    "team": "platform",
                    "scopes": ["inference", "approve"],
                    "roles": ["sre"],
                    "gate_profile": "coding",
                    "hold_s": 60,
                },
                "dba": {"tenant": "acme", "scopes": ["approve"], "roles": ["dba"]},
                "interns": {"tenant": "acme", "models": ["demo-20b"]},
                "guests": {"tenant": "guests"},
            },
        }
    ],
}
SETTINGS = TenancySettings.model_validate(DOCUMENT)


def jwk(key: Any, kid: str | None, **more: str) -> dict[str, Any]:
    algorithm = {rsa.RSAPrivateKey: "RS256", ec.EllipticCurvePrivateKey: "ES256"}
    name = next((name for kind, name in algorithm.items() if isinstance(key, kind)), "EdDSA")
    written = jwt.get_algorithm_by_name(name).to_jwk(key.public_key(), as_dict=True)
    return {**written, "alg": name, **({} if kid is None else {"kid": kid}), **more}


def token(key: Any = RSA, algorithm: str = "RS256", headers: Mapping[str, Any] | None = None, **claims: Any) -> str:
    now_s = int(time.time())
    said = {
        "iss": ISSUER,
        "aud": "gatehouse",
        "sub": "u1",
        "iat": now_s,
        "exp": now_s + 600,
        "email": "alice@example.com",
        "groups": ["sre"],
        **claims,
    }
    said = {name: value for name, value in said.items() if value is not None}
    return jwt.encode(said, key, algorithm=algorithm, headers={"kid": "r1", **(headers or {})})


class World:
    def __init__(self, directory: Path) -> None:
        self.clock = FixedClock(ms=int(time.time() * 1000))
        self.audit = InMemoryAudit()
        self.keys = [jwk(RSA, "r1"), jwk(EC, "e1"), jwk(ED, "d1")]
        self.fetched = 0
        self.down = False
        self.store = TenancyStore(open_store(sqlite_url(directory / "tenancy.db")))
        self.ledger = KeyLedger(
            self.store, b"p" * 32, self.clock, self.audit, SETTINGS, KeySets(self.clock, self.fetch)
        )

    async def fetch(self, issuer: IssuerSettings) -> bytes:
        assert issuer.issuer == ISSUER
        self.fetched += 1
        await asyncio.sleep(0)
        if self.down:
            raise OSError("no route")
        return json.dumps({"keys": self.keys}).encode()

    async def who(self, **claims: Any) -> Principal:
        return await self.ledger.authenticate(token(**claims))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    await world.ledger.open()
    yield world
    await world.ledger.drain()
    await world.store.close()


async def test_a_group_says_what_its_members_may_do(world: World) -> None:
    principal = await world.who()
    assert (principal.tenant, principal.team, principal.person) == (TenantId("acme"), "platform", "alice@example.com")
    assert principal.scopes == {Scope.INFERENCE, Scope.APPROVE}
    assert (principal.roles, principal.models, principal.hold_s) == ({"sre"}, None, 60)
    assert principal.gate_profile is GateProfile.CODING
    assert principal.key_id.startswith("oidc_")


async def test_rights_of_several_groups_of_a_tenant_add_up_and_those_of_another_tenant_do_not(world: World) -> None:
    both = await world.who(groups=["guests", "dba", "interns"])
    assert (both.tenant, both.scopes, both.roles) == ("acme", {Scope.APPROVE, Scope.INFERENCE}, {"dba"})
    assert both.models is None  # the dba's are not limited
    intern = await world.who(sub="u2", groups=["interns"])
    assert intern.models == {ModelId("demo-20b")}
    guest = await world.who(sub="u3", groups=["unknown", "guests"])
    assert (guest.tenant, guest.scopes) == ("guests", {Scope.INFERENCE})


async def test_nobody_without_a_group_has_rights(world: World) -> None:
    for groups in (None, [], ["others"], "SRE", {"sre": True}, [["sre"]]):
        with pytest.raises(Forbidden):
            await world.who(groups=groups)
    assert await world.ledger.list_keys(None) == []
    assert (await world.who(groups="sre")).team == "platform"  # some issuers write a single group as text


async def test_every_token_of_a_person_is_the_same_identity(world: World) -> None:
    first, second, other = await world.who(), await world.who(jti="2"), await world.who(sub="u2")
    assert first == second
    assert first.key_id != other.key_id
    assert {each.key_id for each in await world.ledger.list_keys(None)} == {first.key_id, other.key_id}
    assert world.audit.names() == ["key.created", "key.created"]


@pytest.mark.parametrize(("key", "algorithm", "kid"), [(EC, "ES256", "e1"), (ED, "EdDSA", "d1")])
async def test_other_signatures_are_taken_where_the_settings_name_them(
    world: World, key: Any, algorithm: str, kid: str
) -> None:
    await world.ledger.authenticate(token(key, algorithm, {"kid": kid}))


def _now_s() -> int:
    return int(time.time())  # when the test runs, which may be long after this module was read


def _unsigned() -> str:
    _, body, _ = token().split(".")
    head = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT","kid":"r1"}').rstrip(b"=").decode()
    return f"{head}.{body}."


def _with_public_key_as_secret() -> str:
    """The classic: an HMAC under the public key's text, for a verifier that lets the token choose."""
    public = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    _, body, _ = token().split(".")
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT","kid":"r1"}').rstrip(b"=").decode()
    signature = hmac.digest(public, f"{head}.{body}".encode(), "sha256")
    return f"{head}.{body}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def _tampered() -> str:
    head, body, signature = token(groups=["interns"]).split(".")
    _, other, _ = token(groups=["sre"]).split(".")
    assert body != other
    return f"{head}.{other}.{signature}"


BAD = {
    "unsigned": _unsigned,
    "hmac": _with_public_key_as_secret,
    "tampered": _tampered,
    "other-key": lambda: token(OTHER_RSA),
    "key-in-the-token": lambda: token(OTHER_RSA, headers={"jwk": jwk(OTHER_RSA, "x")}),
    "key-from-the-token": lambda: token(OTHER_RSA, headers={"jku": "https://evil.example/keys"}),
    "unknown-kid": lambda: token(headers={"kid": "nobody"}),
    "no-kid": lambda: jwt.encode({"iss": ISSUER}, RSA, "RS256"),
    "algorithm-of-another-key": lambda: token(EC, "ES256", {"kid": "r1"}),
    "algorithm-not-allowed": lambda: token(RSA, "RS512"),
    "audience": lambda: token(aud="elsewhere"),
    "no-audience": lambda: token(aud=None),
    "issuer": lambda: token(iss=ISSUER + "/"),
    "no-issuer": lambda: token(iss=None),
    "expired": lambda: token(iat=_now_s() - 900, exp=_now_s() - 300),
    "no-expiry": lambda: token(exp=None),
    "expiry-as-words": lambda: token(exp="soon"),
    "endless": lambda: token(exp=_now_s() + 90_000),
    "from-the-future": lambda: token(iat=_now_s() + 900, exp=_now_s() + 1200),
    "not-yet": lambda: token(nbf=_now_s() + 300),
    "no-subject": lambda: token(sub=None),
    "number-as-subject": lambda: token(sub=7),
    "critical-extension": lambda: token(headers={"crit": ["b64"], "b64": False}),
    "garbage": lambda: "eyJ.eyJ.x",
    "empty-parts": lambda: "ey..",
    "list": lambda: "ey" + token()[2:].split(".")[0] + ".W10." + token().split(".")[2],
    "huge": lambda: token(padding="x" * 20_000),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(BAD))
async def test_a_token_that_is_not_wholly_right_is_nobody(world: World, name: str) -> None:
    with pytest.raises(Unauthenticated):
        await world.ledger.authenticate(BAD[name]())
    assert world.audit.events == []


async def test_what_an_issuer_does_not_vouch_for_is_no_person(world: World) -> None:
    for claims in (
        {"email_verified": False},
        {"email": None},
        {"email": "a b"},
        {"email": "аlice@example.com"},
        {"email": 7},
    ):
        assert (await world.who(**claims)).person is None
    assert (await world.who(email_verified=True)).person == "alice@example.com"


async def test_new_rights_are_recorded_before_they_hold(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    key_id = (await world.who(groups=["interns"])).key_id
    promoted = await world.who(groups=["sre"])
    assert (promoted.key_id, promoted.roles) == (key_id, {"sre"})
    assert world.audit.names() == ["key.created", "key.changed"]
    assert world.audit.events[1].data["roles"] == ["sre"]
    [holder] = await world.ledger.holders([key_id])
    assert holder.roles == {"sre"}

    async def down(*_: object) -> None:
        raise AuditUnavailable("down")

    monkeypatch.setattr(world.audit, "append", down)
    with pytest.raises(AuditUnavailable):
        await world.who(groups=["dba"])
    [holder] = await world.ledger.holders([key_id])
    assert holder.roles == {"sre"}


async def test_a_vote_counts_while_the_last_token_is_good(world: World) -> None:
    key_id = (await world.who()).key_id
    world.clock.advance(599_000)
    assert [each.key_id for each in await world.ledger.holders([key_id])] == [key_id]
    world.clock.advance(3_000)
    assert await world.ledger.holders([key_id]) == []


async def test_a_revoked_identity_stays_out_with_every_token(world: World) -> None:
    key_id = (await world.who()).key_id
    await world.ledger.revoke_key(key_id, actor="key_admin")
    for claims in ({}, {"jti": "2"}, {"groups": ["dba"]}):
        with pytest.raises(Unauthenticated):
            await world.who(**claims)
    assert await world.ledger.holders([key_id]) == []
    await world.who(sub="u2")


async def test_an_identity_has_no_text_to_rotate_and_no_end_of_its_own(world: World) -> None:
    key_id = (await world.who()).key_id
    with pytest.raises(InvalidRequest):
        await world.ledger.rotate_key(key_id, 0)
    with pytest.raises(InvalidRequest):
        await world.ledger.expire_key(key_id, None)
    [record] = await world.ledger.list_keys(None)
    for presented in (record.key_id, f"gh-{record.key_id[5:13]}{'0' * 32}"):
        with pytest.raises(Unauthenticated):
            await world.ledger.authenticate(presented)


async def test_limits_hold_for_identities_too(world: World) -> None:
    principal = await world.who()
    await world.ledger.admit(principal, RequestId("r"), ModelId("demo-20b"), 10)
    with pytest.raises(QuotaExceeded, match="team acme/platform"):
        await world.ledger.admit(await world.who(sub="u2"), RequestId("r"), ModelId("demo-20b"), 10)


async def test_two_first_requests_at_once_make_one_identity(world: World) -> None:
    first, second = await asyncio.gather(world.who(), world.who())
    assert first == second
    assert len(await world.ledger.list_keys(None)) == 1
    assert world.fetched == 1


# --- keys of the issuer ------------------------------------------------------------------------------------------


async def test_a_new_key_of_the_issuer_is_fetched_when_a_token_names_it(world: World) -> None:
    await world.who()
    world.keys.append(jwk(OTHER_RSA, "r2"))
    world.clock.advance(30_000)
    await world.ledger.authenticate(token(OTHER_RSA, headers={"kid": "r2"}))
    assert world.fetched == 2


async def test_made_up_keys_do_not_make_us_ask_all_the_time(world: World) -> None:
    await world.who()
    for number in range(50):
        with pytest.raises(Unauthenticated):
            await world.ledger.authenticate(token(headers={"kid": f"x{number}"}))
    assert world.fetched == 1


async def test_a_key_that_the_issuer_withdrew_is_forgotten(world: World) -> None:
    await world.who()
    world.keys = [jwk(EC, "e1")]
    world.clock.advance(600_000)
    with pytest.raises(Unauthenticated):
        await world.who()


async def test_the_last_keys_serve_while_the_issuer_is_away_and_not_for_ever(world: World) -> None:
    await world.who()
    world.down = True
    world.clock.advance(86_400_000)
    await world.who()
    world.clock.advance(1_000)
    with pytest.raises(PartUnavailable):
        await world.who()
    world.down = False
    world.clock.advance(30_000)
    await world.who()


async def test_without_any_keys_it_is_our_fault_and_not_the_clients(world: World) -> None:
    world.down = True
    with pytest.raises(PartUnavailable):
        await world.who()


def test_keys_for_other_uses_are_left_out() -> None:
    issuer = SETTINGS.issuers[0]
    secret = {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0", "kid": "s", "alg": "HS256"}
    keys = [jwk(RSA, "enc", use="enc"), secret, {"kty": "martian", "kid": "m"}, "x", jwk(EC, "e1"), jwk(RSA, None)]
    assert parse_keys(json.dumps({"keys": keys}).encode(), issuer).keys() == {"e1", "#5"}
    for data in (b"{}", b"[]", b"x", b'{"keys": {}}', json.dumps({"keys": [secret]}).encode()):
        with pytest.raises(ValueError):  # noqa: PT011 - whatever is wrong, the last good set stays
            parse_keys(data, issuer)


async def test_keys_can_lie_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [jwk(RSA, "r1")]}))
    issuer = SETTINGS.issuers[0].model_copy(update={"jwks_url": None, "jwks_file": str(path)})
    assert parse_keys(await fetch_keys(issuer), issuer).keys() == {"r1"}
    path.write_bytes(b" " * (2 << 20))
    with pytest.raises(ValueError, match="large"):
        await fetch_keys(issuer)
    path.unlink()
    with pytest.raises(OSError, match="keys.json"):
        await fetch_keys(issuer)


@pytest.mark.parametrize(
    "change",
    [
        {"jwks_file": "keys.json"},  # beside the URL
        {"jwks_url": None},
        {"algorithms": ["HS256"]},
        {"algorithms": ["none"]},
        {"algorithms": []},
        {"audience": ""},
        {"issuer": "id.example.com"},
        {"groups": {}},
        {"groups": {"sre": {"tenant": "system"}}},
        {"groups": {"sre": {"tenant": "acme", "scopes": []}}},
        {"groups": {"sre": {"tenant": "acme", "scope": ["admin"]}}},
    ],
    ids=str,
)
def test_settings_that_would_let_in_too_many_are_refused(change: dict[str, Any]) -> None:
    issuer = {**DOCUMENT["issuers"][0], **change}
    with pytest.raises(ValidationError):
        TenancySettings.model_validate({**DOCUMENT, "issuers": [issuer]})


def test_an_issuer_is_listed_once() -> None:
    with pytest.raises(ValidationError, match="twice"):
        TenancySettings.model_validate({**DOCUMENT, "issuers": DOCUMENT["issuers"] * 2})


def test_an_identity_is_not_the_seam_of_issuer_and_subject() -> None:
    from deployments.tenancy.oidc import Identity

    one = Identity("https://a", "bc", None, (), 0)
    assert one.key_id != dataclasses.replace(one, issuer="https://ab", subject="c").key_id

"""Tokens of an OpenID Connect issuer as identities: signature, issuer, audience and times, then groups to rights.

RFC 7519 (JWT), RFC 8725 (best practice): the algorithm is one of the settings', never the token's wish alone, and the
key is found by `kid` among the issuer's own.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import jwt

from deployments.errors import Forbidden, Unauthenticated
from deployments.ports import KeyId, KeyRecord, Scope, TenantId
from deployments.tenancy.jwks import KeySets, UnknownKey
from deployments.tenancy.oidc_settings import GroupSettings, IssuerSettings

UNKNOWN_IDENTITY = "Incorrect identity token provided: it is expired, not for this server, or of an unknown issuer."
PREFIX = "oidc_"
_MAX_CHARS = 16 * 1024
_MAX_GROUPS = 1_000
_PERSON = re.compile(r"[\x21-\x7e]{1,128}")


def is_token(presented: str) -> bool:
    """True for what is written like a JWT: a virtual key has no dots."""
    return presented.count(".") == 2 and presented.startswith("ey")


@dataclass(frozen=True, slots=True)
class Identity:
    """What an issuer says of somebody, until `expires_ms`. `subject` is unique within the issuer."""

    issuer: str
    subject: str
    person: str | None
    groups: tuple[str, ...]
    expires_ms: int

    @property
    def key_id(self) -> KeyId:
        """The id under which limits, usage, votes and records know this identity; the same for every token of it."""
        material = f"{len(self.issuer)}:{self.issuer}{self.subject}".encode("utf-8", "surrogatepass")
        return KeyId(PREFIX + hashlib.sha256(material).hexdigest()[:24])


class Identities:
    """Verifies the tokens of the issuers in the settings."""

    def __init__(self, issuers: Sequence[IssuerSettings], key_sets: KeySets) -> None:
        self._issuers = {issuer.issuer: issuer for issuer in issuers}
        self._key_sets = key_sets

    @property
    def any(self) -> bool:
        """True when there is an issuer at all."""
        return bool(self._issuers)

    async def verify(self, presented: str) -> tuple[Identity, IssuerSettings]:
        """Who a token speaks of, or `Unauthenticated`; `PartUnavailable` while the issuer's keys cannot be had."""
        try:
            issuer = self._issuers[_issuer(presented)]
            key = await self._key_sets.key(issuer, _key_id(presented))
            claims = jwt.decode(
                presented,
                key,
                algorithms=list(issuer.algorithms),
                audience=issuer.audience,
                issuer=issuer.issuer,
                leeway=issuer.leeway_s,
                options={"require": ["iss", "aud", "sub", "exp", "iat"], "enforce_minimum_key_length": True},
            )
            lifetime_s = float(claims["exp"]) - float(claims["iat"])
        except (KeyError, UnknownKey, jwt.PyJWTError, ValueError, TypeError) as error:
            raise Unauthenticated(UNKNOWN_IDENTITY) from error
        if not lifetime_s <= issuer.max_lifetime_s:
            raise Unauthenticated(
                f"The identity token is good for longer than the {issuer.max_lifetime_s} s allowed here."
            )
        return _identity(claims, issuer), issuer


def prefix_of(key_id: KeyId) -> str:
    """What stands in the column of a key's prefix: 16 digits, so that no presented key finds it."""
    return key_id.removeprefix(PREFIX)[:16]


def record_of(identity: Identity, issuer: IssuerSettings, now_ms: int) -> KeyRecord:
    """The identity as the ledger keeps it. `Forbidden` when none of its groups has a place here."""
    mine = [group for name, group in issuer.groups.items() if name in identity.groups]
    if not mine:
        raise Forbidden("None of the groups of this identity has rights here. Ask whoever runs this Gatehouse.")
    first = mine[0]
    same = [group for group in mine if group.tenant == first.tenant]
    return KeyRecord(
        key_id=identity.key_id,
        tenant=TenantId(first.tenant),
        name=issuer.issuer[:128],
        person=identity.person,
        scopes=frozenset[Scope]().union(*(group.scopes for group in same)),
        models=_models(same),
        gate_profile=first.gate_profile,
        created_ms=now_ms,
        expires_ms=identity.expires_ms,
        revoked_ms=None,
        hold_s=first.hold_s,
        roles=frozenset[str]().union(*(group.roles for group in same)),
        team=first.team,
    )


def _models(groups: Sequence[GroupSettings]) -> frozenset[Any] | None:
    named = [group.models for group in groups]
    return None if None in named else frozenset[Any]().union(*(each for each in named if each is not None))


def _identity(claims: Mapping[str, Any], issuer: IssuerSettings) -> Identity:
    person = claims.get(issuer.person_claim)
    vouched = claims.get("email_verified") is not False
    groups = claims.get(issuer.groups_claim)
    listed = cast(list[object], groups) if isinstance(groups, list) else [groups]
    return Identity(
        issuer=issuer.issuer,
        subject=str(claims["sub"])[:1024],
        person=person if vouched and isinstance(person, str) and _PERSON.fullmatch(person) else None,
        groups=tuple(each for each in listed[:_MAX_GROUPS] if isinstance(each, str)),
        expires_ms=int(float(claims["exp"]) * 1000),
    )


def _issuer(presented: str) -> str:
    """The issuer that a token names, to find the key that decides whether it is true."""
    if len(presented) > _MAX_CHARS:
        raise ValueError("too long")
    issuer = jwt.decode(presented, options={"verify_signature": False}).get("iss")
    if not isinstance(issuer, str):
        raise TypeError("no issuer")
    return issuer


def _key_id(presented: str) -> str | None:
    kid = jwt.get_unverified_header(presented).get("kid")
    return kid if isinstance(kid, str) else None

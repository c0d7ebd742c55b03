"""Permits: what they say, how they are signed, and the numbered checks of whoever gets one. Pure.

A permit is a JWS in compact form (RFC 7515) over Ed25519 (RFC 8037), of the type `exec-permit+jwt` (RFC 8725, section
3.11). It is the gate's word that one call, named by the digest of its binding, may be executed once by one runner.
The single use is not in the signature: `redeem` takes it, in the store.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

import jwt
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.utils import base64url_encode

from deployments.gate.binding import SCHEMA, ActionBinding
from deployments.ports import JsonValue, PermitAsk, Principal, Risk

ALGORITHM = "EdDSA"
TYPE = "exec-permit+jwt"
ISSUER = "gatehouse"
LEEWAY_S = 30
OFFLINE = "gatehouse-run/1 offline"
ONLINE = "gatehouse-run/1"
_MAX_TOKEN_CHARS = 16_384
_HEX = re.compile(r"[0-9a-f]{64}")
_REQUIRED = (
    "iss", "aud", "sub", "jti", "iat", "nbf", "exp", "act", "risk", "exec_profile", "policy_digest", "gate_call_id",
)  # fmt: skip
_OPTIONAL = ("approval_id", "change_id", "rollback_digest", "rollback_of")
_LIFETIME_S = {Risk.R0: 300, Risk.R1: 300, Risk.R2: 900, Risk.R3: 300}
# Programs that do their harmless reads over a network: without it, the call that was judged harmless would only fail.
_NETWORKED = frozenset({
    "aws", "az", "curl", "dig", "docker", "gcloud", "gh", "glab", "helm", "host", "kubectl", "mongosh", "mysql",
    "nslookup", "oc", "ping", "podman", "psql", "redis-cli", "ssh", "wget",
})  # fmt: skip
_WORDS = re.compile(r"[A-Za-z0-9._-]+")


class BadPermit(Exception):
    """A permit that proves nothing. The text says which check failed, and holds no part of the permit."""


def lifetime_ms(risk: Risk) -> int:
    """How long a permit of a class is good for. `ValueError` for one that no permit may carry."""
    if risk not in _LIFETIME_S:
        raise ValueError(f"there is no permit for a call of class {risk.value}")
    return _LIFETIME_S[risk] * 1000


def profile_of(risk: Risk, arguments: str) -> str:
    """How a runner must execute a call: without a network only what reads, and reads nothing over one."""
    local = risk is Risk.R0 and _NETWORKED.isdisjoint(_WORDS.findall(arguments))
    return OFFLINE if local else ONLINE


def binding_of(principal: Principal, ask: PermitAsk) -> ActionBinding:
    """The binding that the digest of a released call is of."""
    return ActionBinding(
        gate_call_id=ask.gate_call_id,
        tenant=principal.tenant,
        principal=principal.key_id,
        session=ask.session,
        tool=ask.tool,
        arguments=ask.arguments,
        policy_digest=ask.policy_digest,
    )


def binding_object(binding: ActionBinding) -> dict[str, JsonValue]:
    """The binding as it is hashed, for a runner that hashes it again."""
    return {"schema": SCHEMA, **cast("dict[str, JsonValue]", asdict(binding))}


def digest_of(binding: Mapping[str, JsonValue]) -> str:
    """SHA-256 hex of the RFC 8785 form of a binding. `BadPermit` where it has none."""
    try:
        return hashlib.sha256(rfc8785.dumps(dict(binding))).hexdigest()
    except (rfc8785.CanonicalizationError, ValueError, RecursionError) as error:
        raise BadPermit("The binding of the call has no canonical form.") from error


@dataclass(frozen=True, slots=True)
class Claims:
    """What a permit says. Times are seconds; digests are hex."""

    iss: str
    aud: str
    sub: str
    jti: str
    iat: int
    nbf: int
    exp: int
    act: str
    risk: str
    exec_profile: str
    policy_digest: str
    gate_call_id: str
    approval_id: str | None = None
    change_id: str | None = None
    rollback_digest: str | None = None
    rollback_of: str | None = None


@dataclass(frozen=True, slots=True)
class PermitKey:
    """A key that permits are signed with. `kid` is the RFC 7638 thumbprint of its public half."""

    kid: str
    secret: Ed25519PrivateKey

    @classmethod
    def of(cls, secret: Ed25519PrivateKey) -> "PermitKey":
        """The key with its id."""
        raw = secret.public_key().public_bytes_raw()
        thumbprint = hashlib.sha256(rfc8785.dumps({"crv": "Ed25519", "kty": "OKP", "x": _base64url(raw)})).digest()
        return cls(_base64url(thumbprint), secret)

    def jwk(self) -> dict[str, JsonValue]:
        """The public half as a JWK (RFC 8037)."""
        raw = self.secret.public_key().public_bytes_raw()
        return {
            "kty": "OKP", "crv": "Ed25519", "x": _base64url(raw), "kid": self.kid, "use": "sig", "alg": ALGORITHM
        }  # fmt: skip


def sign(claims: Claims, key: PermitKey) -> str:
    """The permit as a compact JWS."""
    said = {name: value for name, value in asdict(claims).items() if value is not None}
    return jwt.encode(said, key.secret, algorithm=ALGORITHM, headers={"typ": TYPE, "kid": key.kid})


def verify(token: str, jwks: Mapping[str, JsonValue], audience: str, now_s: float) -> Claims:
    """What a permit says, once it is proven to be the gate's and for this runner, now; else `BadPermit`.

    1. The header is exactly the pinned one, and its key is pinned. 2. The signature holds. 3. The claims are those of a
    permit, each of its kind. 4. It was issued by the gate, for this runner. 5. It is good at this moment, give or take
    30 s. Whoever executes must then compare `act` with what it is about to execute, and redeem the permit.
    """
    # 1
    if len(token) > _MAX_TOKEN_CHARS:
        raise BadPermit("The permit is too long.")
    try:
        header = jwt.get_unverified_header(token)
    except jwt.InvalidTokenError as error:
        raise BadPermit("The permit cannot be read.") from error
    if header.keys() != {"alg", "typ", "kid"} or header["alg"] != ALGORITHM or header["typ"] != TYPE:
        raise BadPermit("The permit is not of the pinned algorithm and type.")
    key = _pinned(jwks, header["kid"])
    # 2
    options = {"verify_signature": True, "verify_exp": False, "verify_nbf": False, "verify_iat": False}
    try:
        said = cast(
            "dict[str, JsonValue]",
            jwt.decode(token, key, algorithms=[ALGORITHM], options=cast(Any, {**options, "verify_aud": False})),
        )
    except jwt.InvalidTokenError as error:
        raise BadPermit("The permit's signature does not hold.") from error
    # 3
    claims = _claims(said)
    # 4
    if claims.iss != ISSUER:
        raise BadPermit("The permit was issued by somebody else.")
    if not hmac.compare_digest(claims.aud.encode(), audience.encode()):
        raise BadPermit("The permit is for another runner.")
    # 5
    if now_s < max(claims.nbf, claims.iat) - LEEWAY_S:
        raise BadPermit("The permit is not good yet.")
    if now_s >= claims.exp + LEEWAY_S:
        raise BadPermit("The permit has expired.")
    return claims


def _claims(said: Mapping[str, JsonValue]) -> Claims:
    if not set(_REQUIRED) <= said.keys() or said.keys() - {*_REQUIRED, *_OPTIONAL}:
        raise BadPermit("The permit lacks a claim, or has one that there is not.")
    for name, value in said.items():
        good = (
            isinstance(value, int) and not isinstance(value, bool)
            if name in {"iat", "nbf", "exp"}
            else isinstance(value, str) and bool(value)
        )
        if not good:
            raise BadPermit(f"The permit's claim '{name}' is not of its kind.")
    claims = Claims(**cast("dict[str, Any]", dict(said)))
    digests = (claims.act, claims.policy_digest, *([claims.rollback_digest] if claims.rollback_digest else []))
    if not all(_HEX.fullmatch(digest) for digest in digests):
        raise BadPermit("The permit holds a digest that is none.")
    if claims.risk not in {risk.value for risk in _LIFETIME_S} or claims.exec_profile not in {OFFLINE, ONLINE}:
        raise BadPermit("The permit names a class or a profile that there is not.")
    if claims.exp - claims.iat > lifetime_ms(Risk(claims.risk)) // 1000:
        raise BadPermit("The permit lives longer than its class may.")
    return claims


def _pinned(jwks: Mapping[str, JsonValue], kid: str) -> Any:
    keys = jwks.get("keys")
    for each in keys if isinstance(keys, list) else []:
        if isinstance(each, dict) and each.get("kid") == kid:
            public = {"kty": each.get("kty"), "crv": each.get("crv"), "x": each.get("x")}
            if (public["kty"], public["crv"]) != ("OKP", "Ed25519"):
                break
            try:
                return jwt.PyJWK.from_dict(cast("dict[str, Any]", public), ALGORITHM).key
            except (jwt.PyJWTError, ValueError) as error:
                raise BadPermit("The pinned key cannot be read.") from error
    raise BadPermit("The permit was signed with a key that is not pinned.")


def _base64url(data: bytes) -> str:
    return base64url_encode(data).decode("ascii")

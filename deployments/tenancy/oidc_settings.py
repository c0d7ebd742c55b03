"""Settings of identities that an issuer of OpenID Connect vouches for."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from deployments.ports import SYSTEM_TENANT, GateProfile, ModelId, Scope

Name = Annotated[str, StringConstraints(pattern=r"\A[a-z0-9][a-z0-9._-]{0,62}\z")]
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Signatures with a public key. A secret that both sides share (HS256) would let every verifier issue tokens."""


class GroupSettings(BaseModel):
    """What the members of one group may do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tenant: Name
    team: Name | None = None
    scopes: Annotated[frozenset[Scope], Field(min_length=1)] = frozenset({Scope.INFERENCE})
    roles: frozenset[Name] = frozenset()
    models: frozenset[ModelId] | None = Field(default=None, description="Null: all models.")
    gate_profile: GateProfile = GateProfile.OPS
    hold_s: int = Field(default=0, ge=0, le=600)

    @model_validator(mode="after")
    def _not_ours(self) -> Self:
        if self.tenant == SYSTEM_TENANT:
            raise ValueError("the tenant 'system' is Gatehouse itself and has no members")
        return self


class IssuerSettings(BaseModel):
    """One issuer, and what its groups may do here. Issuer and audience are compared letter by letter."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    issuer: Annotated[str, StringConstraints(pattern=r"\Ahttps?://[\x21-\x7e]{1,500}\z")]
    audience: Annotated[str, StringConstraints(min_length=1, max_length=512)] = Field(
        description="What `aud` must hold: the name under which the issuer knows this Gatehouse."
    )
    jwks_url: Annotated[str, StringConstraints(pattern=r"\Ahttps?://[\x21-\x7e]{1,500}\z")] | None = Field(
        default=None, description="Where the issuer publishes its keys."
    )
    jwks_file: str | None = Field(
        default=None, description="A file with the issuer's keys in place of `jwks_url`; read again when it changes."
    )
    algorithms: Annotated[tuple[Algorithm, ...], Field(min_length=1)] = ("RS256", "ES256", "EdDSA")
    groups_claim: str = Field(default="groups", min_length=1, max_length=128)
    person_claim: str = Field(
        default="email", min_length=1, max_length=128, description="The claim that names the human, in the same words "
        "as `person` of virtual keys: who has both must not count as two. A token with `email_verified: false` "
        "names nobody.",
    )  # fmt: skip
    groups: dict[str, GroupSettings] = Field(
        min_length=1, description="By group. The first one of the list that a token names decides the tenant and what "
        "goes with it; scopes and roles of all its groups in that tenant add up.",
    )  # fmt: skip
    leeway_s: int = Field(default=30, ge=0, le=300, description="How far the clocks may differ.")
    max_lifetime_s: int = Field(
        default=86_400, ge=60, le=31 * 86_400, description="A token that is good for longer is refused."
    )
    refresh_s: int = Field(default=600, ge=10, le=86_400, description="Age after which the keys are asked for again.")
    stale_s: int = Field(
        default=86_400, ge=60, le=31 * 86_400, description="For how long the last keys go on counting while the "
        "issuer does not answer.",
    )  # fmt: skip

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.jwks_url is None) == (self.jwks_file is None):
            raise ValueError("either 'jwks_url' or 'jwks_file' is needed")
        return self

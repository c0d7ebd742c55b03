"""Settings of what the gate takes more seriously for a tenant than for others; `tenant_names.py` reads them."""

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

_Pattern: TypeAlias = Annotated[str, Field(min_length=1, max_length=256)]


class NamesSettings(BaseModel):
    """Names of one kind (patterns with `*` and `?`), and what they are at least; what is left out stays as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    match: Annotated[tuple[_Pattern, ...], Field(min_length=1, max_length=256, strict=False)]
    env: Literal["prod"] | None = None
    sensitivity: Literal["sensitive"] | None = None
    egress: Literal["listed", "other"] | None = None
    class_: Literal["R1", "R2", "R3", "FORBIDDEN"] | None = Field(
        default=None, alias="class", description="What every call that names one of them is at least."
    )

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not any((self.env, self.sensitivity, self.egress, self.class_)):
            raise ValueError("`env`, `sensitivity`, `egress` or `class` must say what the names are")
        return self


class TenantGateSettings(BaseModel):
    """What the gate takes more seriously for a tenant than for others."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    targets: dict[str, Annotated[tuple[NamesSettings, ...], Field(max_length=256, strict=False)]] = Field(
        default_factory=dict[str, tuple[NamesSettings, ...]],
        description="By kind of name, as in a policy bundle: namespace, ref, path, host, account, database and others.",
    )

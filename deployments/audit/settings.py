"""Settings of the audit sink."""

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deployments.audit.notes import BadKey, parse_witness_keys

BodyMode: TypeAlias = Literal["none", "arguments", "all"]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class WitnessSettings(_Settings):
    """One witness: where it answers, and the key it signs with."""

    url: str = Field(pattern="^https?://", description="Base address; requests go to URL/add-checkpoint.")
    key: str = Field(min_length=1, description="Its verifier key, as `gatehouse audit witness` prints it.")


class ExportSettings(_Settings):
    """Where tiles and checkpoints are copied to: a directory on another disk, or a bucket with object lock."""

    target: str = Field(min_length=1, description="A directory, or s3://BUCKET/PREFIX.")
    interval_s: float = Field(default=60.0, gt=0, description="How often.")
    endpoint_url: str | None = Field(default=None, description="Of an S3-compatible store; None: Amazon's.")
    region: str | None = Field(default=None, description="Of the bucket; None: as the environment says.")
    lock_mode: Literal["COMPLIANCE", "GOVERNANCE", "none"] = Field(
        default="COMPLIANCE", description="Object lock of what never changes. Credentials come from the environment."
    )
    lock_days: int = Field(default=365, ge=1, le=36_500, description="How long nobody can delete it.")


class BodySettings(_Settings):
    """Which prompts, arguments and outputs are kept, encrypted, beside the log. Commitments are recorded always."""

    default: BodyMode = Field(default="none", description="For tenants that are not listed.")
    tenants: dict[str, BodyMode] = Field(default={}, description="By tenant.")
    retention_days: int = Field(default=30, ge=1, le=36_500, description="Bodies older than this are deleted.")
    tenant_retention_days: dict[str, Annotated[int, Field(ge=1, le=36_500)]] = Field(
        default={}, description="By tenant, in place of retention_days."
    )
    max_body_bytes: int = Field(default=4 * 2**20, ge=1, description="A larger one is not kept, only committed to.")

    def mode(self, tenant: str) -> BodyMode:
        """What is kept of a tenant."""
        return self.tenants.get(tenant, self.default)

    def keeps_all(self, tenant: str) -> bool:
        """True when prompts and outputs of a tenant are kept."""
        return self.mode(tenant) == "all"

    def keeps_arguments(self, tenant: str) -> bool:
        """True when the arguments of a tenant's calls are kept."""
        return self.mode(tenant) != "none"

    def days(self, tenant: str) -> int:
        """How long a tenant's bodies are kept."""
        return self.tenant_retention_days.get(tenant, self.retention_days)


class AuditSettings(_Settings):
    """How the log is written. None of these weakens the promise that an acknowledged record is on disk."""

    segment_bytes: int = Field(default=64 * 2**20, ge=1_024, description="A segment file of this size is closed.")
    max_batch_events: int = Field(default=2_000, ge=1, description="Most events that share one fdatasync.")
    max_queued_events: int = Field(default=10_000, ge=1, description="More waiting events are refused, not delayed.")
    max_unsealed_records: int = Field(
        default=50_000, ge=1, description="Records in memory that no checkpoint covers yet; then writing waits."
    )
    head_interval_ms: int = Field(default=200, ge=0, description="How far the recorded head may lag behind.")
    lock_timeout_s: float = Field(default=15.0, ge=0, description="How long to wait for another writer to leave.")
    min_free_bytes: int = Field(
        default=64 * 2**20, ge=0, description="With less room on the disk events are refused before it is full."
    )
    origin: str | None = Field(
        default=None, min_length=1, max_length=200, pattern=r"^[^\s+]+$",
        description="Name of this log in its checkpoints, such as audit.example.org/gatehouse. None: a random one.",
    )  # fmt: skip
    signing_key_file: str | None = Field(
        default=None, description="The log's signing key. None: `log.key` in the key directory, made at first start."
    )
    vault_key_file: str | None = Field(
        default=None, description="32 bytes that wrap the tenants' keys. None: `vault.key`, made at first start."
    )
    keys_dir: str | None = Field(default=None, description="Key directory. None: audit-keys beside the log.")
    checkpoint_interval_ms: int = Field(default=1_000, ge=10, description="A checkpoint at least so often.")
    checkpoint_records: int = Field(default=1_000, ge=1, description="And whenever so many records wait for one.")
    checkpoint_history_s: float = Field(default=60.0, ge=0, description="Every so often one is kept for ever.")
    checkpoint_copies: list[str] = Field(
        default=[], max_length=8, description="Directories on other disks that get a copy of each newest checkpoint."
    )
    canary_interval_s: float = Field(default=10.0, gt=0, description="Least time between two health records.")
    witnesses: list[WitnessSettings] = Field(default=[], max_length=16, description="Who confirms checkpoints.")
    witness_quorum: int | None = Field(default=None, ge=1, description="How many must. None: all of them.")
    witness_interval_s: float = Field(default=10.0, gt=0, description="How often they are asked.")
    witness_timeout_s: float = Field(default=5.0, gt=0, description="How long one may take.")
    witness_max_age_s: float = Field(
        default=600.0, gt=0, description="No R2 or R3 call leaves when the quorum's confirmation is older."
    )
    export: ExportSettings | None = Field(default=None, description="Copies that outlive this machine.")
    bodies: BodySettings = BodySettings()

    @model_validator(mode="after")
    def _quorum(self) -> "AuditSettings":
        try:
            parse_witness_keys(witness.key for witness in self.witnesses)
        except BadKey as error:
            raise ValueError(f"the key of a witness cannot be used: {error}") from error
        if self.witness_quorum is not None and self.witness_quorum > len(self.witnesses):
            raise ValueError("witness_quorum is larger than the number of witnesses")
        return self

    @property
    def quorum(self) -> int:
        """How many witnesses must confirm a checkpoint; 0 without witnesses."""
        return len(self.witnesses) if self.witness_quorum is None else self.witness_quorum

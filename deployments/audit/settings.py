"""Settings of the audit sink."""

from pydantic import BaseModel, ConfigDict, Field


class AuditSettings(BaseModel):
    """How the log is written. None of these weakens the promise that an acknowledged record is on disk."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    segment_bytes: int = Field(default=64 * 2**20, ge=1_024, description="A segment file of this size is closed.")
    max_batch_events: int = Field(default=2_000, ge=1, description="Most events that share one fdatasync.")
    max_queued_events: int = Field(default=10_000, ge=1, description="More waiting events are refused, not delayed.")
    head_interval_ms: int = Field(default=200, ge=0, description="How far the recorded head may lag behind.")
    lock_timeout_s: float = Field(default=15.0, ge=0, description="How long to wait for another writer to leave.")

"""Settings of the ingress."""

from pydantic import BaseModel, ConfigDict, Field


class IngressSettings(BaseModel):
    """Limits and deadlines of a request."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_body_bytes: int = Field(default=32 * 2**20, ge=1024, description="Largest request body accepted, in bytes.")
    max_held_bytes: int = Field(
        default=256 * 2**20, ge=1024, description="What a replica holds of request bodies that are still arriving."
    )
    body_timeout_s: float = Field(default=60.0, gt=0, description="How long a request body may take to arrive.")
    first_byte_s: float = Field(
        default=10.0, gt=0, description="How long a stream's 200 waits for the first byte, so that early failures "
        "keep their status code.",
    )  # fmt: skip
    cold_fallback: bool = Field(
        default=False, description="Let the other tier answer a routed request while its own is scaled to zero, when "
        "that one is larger. Off: the request waits for the first replica. A request is never moved to a smaller tier.",
    )  # fmt: skip
    keepalive_s: float = Field(default=15.0, gt=0, description="Silence after which a stream gets a sign of life.")
    hold_poll_s: float = Field(
        default=0.5, gt=0, le=10, description="How often a waiting stream asks whether its call has been approved."
    )
    call_timeout_s: float = Field(default=5.0, gt=0, description="Deadline of a call to ledger, router or gate.")
    audit_timeout_s: float = Field(default=2.0, gt=0, description="Deadline of an audit acknowledgement.")
    principal_ttl_s: float = Field(
        default=2.0, ge=0, le=4, description="How long a replica trusts a key it has checked. Revocation must reach "
        "every replica within 5 s.",
    )  # fmt: skip
    record_delay_s: float = Field(
        default=0.05, ge=0, le=5, description="How long the last record of an answered request waits, so that it does "
        "not compete with the first token of the client's next one. A replica that is killed loses what waits.",
    )  # fmt: skip
    answer_tokens: int = Field(
        default=1024, ge=1, description="Tokens reserved for an answer when the client names no limit."
    )

"""Settings of the response store."""

from pydantic import BaseModel, ConfigDict, Field


class ResponsesSettings(BaseModel):
    """How long responses are kept and how much of them. Sizes are bytes of JSON, before compression."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    ttl_s: int = Field(
        default=30 * 86_400, ge=60, le=365 * 86_400, description="A response is forgotten this long after its creation."
    )
    max_response_bytes: int = Field(
        default=8 << 20, ge=1024, le=256 << 20, description="The largest response taken, with its own input."
    )
    max_conversation_bytes: int = Field(
        default=16 << 20, ge=1024, le=512 << 20, description="The most that one conversation may hand to its next turn."
    )
    max_turns: int = Field(
        default=1000, ge=1, le=10_000, description="Responses that may follow each other by previous_response_id."
    )
    max_responses_per_tenant: int = Field(default=100_000, ge=1, description="Responses a tenant may keep at once.")
    max_bytes_per_tenant: int = Field(
        default=1 << 30, ge=1024, description="Bytes a tenant may keep at once; each response costs 256 more."
    )
    silent_s: int = Field(
        default=30, ge=1, description="A background response without a sign of life for this long has failed."
    )
    sweep_s: int = Field(default=60, ge=1, description="Pause between two removals of expired responses.")

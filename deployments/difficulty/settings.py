"""Settings of the difficulty router's deployment; the policy itself is a document of its own."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class DifficultySettings(BaseModel):
    """How much the router remembers, and under which names it is asked to choose."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    auto_models: Annotated[tuple[str, ...], Field(strict=False, min_length=1)] = ("auto",)
    """Model names that mean "choose for me"."""

    sessions: int = Field(default=100_000, ge=1, le=10_000_000)
    """Sessions remembered per replica; the one used least recently is forgotten first."""

    idle_release_s: int = Field(default=1_800, ge=1, le=86_400)
    """A session idle for longer starts anew: no failures, no latch."""

    explained_routes: int = Field(default=10_000, ge=1, le=1_000_000)
    """Decisions per replica that `GET /v1/route/{id}` can explain."""

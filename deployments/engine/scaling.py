"""How many replicas a tier needs. Pure: Serve calls the policy with its context, tests with recorded traces."""

from pydantic import BaseModel, ConfigDict, Field


class ScalingSettings(BaseModel):
    """Bounds and thresholds of one tier."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    min_replicas: int = Field(default=1, ge=0)
    max_replicas: int = Field(default=1, ge=1)


def autoscaling_config(settings: ScalingSettings) -> dict[str, object]:
    """Serve's `autoscaling_config`."""
    return {"min_replicas": settings.min_replicas, "max_replicas": settings.max_replicas}

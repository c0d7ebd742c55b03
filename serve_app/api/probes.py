"""What probes and metrics share: an answer in time or none, and a number for what never happened."""

import asyncio
import math
from collections.abc import Awaitable
from typing import TypeVar

from deployments.errors import GatehouseError

PROBE_S = 3.0
T = TypeVar("T")


async def within(work: Awaitable[T], seconds: float = PROBE_S) -> T | None:
    """The answer, or None when the part fails or does not give one in time."""
    try:
        async with asyncio.timeout(seconds):
            return await work
    except (GatehouseError, TimeoutError):
        return None


def or_nan(value: float | None) -> float:
    """The value as Prometheus takes it."""
    return math.nan if value is None else value

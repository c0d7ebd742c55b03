"""An engine's reply that is left before it has begun."""

import asyncio
from collections.abc import AsyncGenerator

from deployments.ingress.opening import Opening
from deployments.ports import EngineItem


class Mute:
    """An engine that is asked and says nothing."""

    def __init__(self) -> None:
        self.open = 0

    async def call(self) -> AsyncGenerator[EngineItem, None]:
        self.open += 1
        try:
            await asyncio.Event().wait()
            yield b""
        finally:
            self.open -= 1


async def test_who_leaves_at_the_moment_patience_ends_stops_the_engine() -> None:
    engine = Mute()
    opening = Opening(engine.call())
    await opening.start(0.0)
    assert engine.open == 1
    await opening.aclose()  # before any task that `start` left has had its turn
    assert engine.open == 0

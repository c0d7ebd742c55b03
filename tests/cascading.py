"""A world with a smaller model that is wrong and a larger one that is right."""

from dataclasses import dataclass, field, replace

from deployments.ports import JsonValue, RouteAsk, RouteDecision, RouteRequest
from router.types import Role, Turn
from tests.fakes import (
    BASE,
    ChoosingDifficulty,
    Script,
    ScriptedEngine,
    World,
    chunk,
    json_reply,
    sse,
    stream_reply,
)
from tests.unit.ingress.test_chat_stream import SECRET

WRONG, RIGHT = "It is 7 * 8 = 54.", "It is 7 * 8 = 56."
QUESTION = "How many is 7 * 8?"
ASKED: dict[str, object] = {
    "model": "auto",
    "messages": [{"role": "user", "content": QUESTION}],
    "route": {"cascade": True},
}
TOOLS = [{"type": "function", "function": {"name": "shell", "parameters": {"type": "object"}}}]
CALLS = [{"id": "c1", "type": "function", "function": {"name": "shell", "arguments": SECRET}}]


class Reading(ChoosingDifficulty):
    """Answers the size that a request names, as the policy would; `denies` the larger one."""

    denies = False

    async def route(self, ask: RouteAsk) -> RouteDecision:
        decision = await super().route(ask)
        if ask.model is None:
            return decision
        return replace(
            decision, model=BASE if self.denies else ask.model, effort=ask.request.requested_effort or decision.effort
        )


def read_turns(body: dict[str, JsonValue]) -> RouteRequest:
    """The turns, which the checks need."""
    if "messages" not in body:
        return RouteRequest((Turn(Role.USER, str(body.get("prompt"))),))
    return RouteRequest(
        tuple(Turn(Role(each["role"]), str(each.get("content") or "")) for each in body["messages"])  # type: ignore[union-attr, index, call-overload]
    )


@dataclass
class Asking(World):
    """A world whose readers read and whose router answers by name."""

    difficulty: Reading = field(default_factory=Reading)

    def _make(self):
        surface = super()._make()
        surface.journey._readers = surface.journey._cascade._readers = dict.fromkeys(surface.readers, read_turns)
        return surface


def world(*scripts: Script, strong: Script | None = None, **fields: object) -> Asking:
    larger = ScriptedEngine(json_reply(RIGHT) if strong is None else strong)
    return Asking(ScriptedEngine(*(scripts or (json_reply(WRONG),))), strong=larger, **fields)


def streamed(text: str) -> Script:
    return stream_reply(sse(chunk(role="assistant", content="")), sse(chunk(content=text)), sse(chunk(finish="stop")))


async def settled(here: World) -> None:
    """Return when nothing is owed any more."""
    await here.surface().journey.drain()
    await here.surface().recorder.drain()


def finished(here: World) -> list[dict[str, JsonValue]]:
    """What was recorded of the attempts, in order."""
    return [dict(event.data) for event in here.audit.events if event.name == "generation.finished"]


def nothing_is_owed(here: World) -> bool:
    """Every grant is settled."""
    return set(here.ledger.grants) == set(here.ledger.settled)

"""A world whose engines answer whatever they are asked, in the shape that was asked for."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from deployments.difficulty.reading import read_chat, read_completion
from deployments.errors import NotFound
from deployments.gate.bundle import bundle_path
from deployments.gate.classify import Classifier
from deployments.gate.policy import read_policy
from deployments.gate.shell.reader import ShellReader
from deployments.ingress.dialects.codecs import make_codecs
from deployments.ingress.journey import RoutedModel
from deployments.ingress.settings import IngressSettings
from deployments.ingress.surface import Surface
from deployments.ports import (
    Dialect,
    EngineCall,
    EngineItem,
    Feedback,
    ModelId,
    RouteExplanation,
    RouteId,
    Scope,
    TenantId,
    ToolCall,
    Verdict,
)
from tests.fakes import (
    JSON_START,
    SSE_START,
    ChoosingDifficulty,
    RuleGate,
    ScriptedEngine,
    World,
    call_chunk,
    chunk,
    json_reply,
    release,
    sse,
    stream_reply,
)
from tests.fakes_difficulty import FixedDifficulty
from tests.fakes_gate import InMemoryApprovals
from tests.unit.ingress.test_chat_stream import hold

ALL = "gh-all-scopes"
OTHER = "gh-other-tenant"
EMBEDDER = ModelId("demo-embed")
TOOL = "shell"
KNOWN_ROUTE = RouteId("rt_known")
SAFE, DANGEROUS = '{"command":"ls"}', '{"command":"kubectl delete namespace staging"}'


class AnsweringEngine(ScriptedEngine):
    """Answers chats, completions, embeddings and questions. `calls_tools` are the arguments of the calls it makes."""

    def __init__(self, *calls_tools: str, finish: str = "stop", stop: str | None = None) -> None:
        super().__init__([])
        self.arguments = calls_tools
        self.finish = "tool_calls" if calls_tools else finish
        self.stop = stop

    async def call(self, call: EngineCall) -> AsyncGenerator[EngineItem, None]:
        body = json.loads(call.body)
        self.calls.append(call)
        self.open += 1
        try:
            for item in self._answer(call.path, body):
                await asyncio.sleep(0)
                yield item
        finally:
            self.open -= 1

    def _answer(self, path: str, body: Mapping[str, Any]) -> Any:
        match path:
            case "/tokenize":
                return _json({"count": 2, "max_model_len": 4096, "tokens": [1, 2], "token_strs": None})
            case "/v1/chat/completions/render":
                return _json({"request_id": "chatcmpl-1", "token_ids": [1, 2]})
            case "/detokenize":
                return _json({"prompt": "text"})
            case "/v1/embeddings":
                return _json(_vectors(body))
            case "/v1/completions":
                return _completion(body)
            case _:
                return self._stream() if body.get("stream") else self._whole()

    def _stream(self) -> Any:
        calls = [call_chunk(number, TOOL, text) for number, text in enumerate(self.arguments)]
        last = chunk(finish=self.finish)
        last["choices"][0]["stop_reason"] = self.stop  # type: ignore[index]
        return stream_reply(
            sse(chunk(role="assistant", content=""), chunk(reasoning="Hm."), chunk(content="Hello"), *calls, last)
        )

    def _whole(self) -> Any:
        calls = [
            {"id": f"call_{number}", "type": "function", "function": {"name": TOOL, "arguments": text}}
            for number, text in enumerate(self.arguments)
        ]
        start, data = json_reply("Hello", calls, self.finish)
        reply = json.loads(data)  # type: ignore[arg-type]
        reply["choices"][0]["stop_reason"] = self.stop
        return [start, json.dumps(reply).encode()]


def _json(value: object) -> Any:
    return [JSON_START, json.dumps(value).encode()]


def _vectors(body: Mapping[str, Any]) -> object:
    given = body["input"]
    count = len(given) if isinstance(given, list) and not isinstance(given[0], int) else 1
    data = [{"object": "embedding", "index": index, "embedding": [0.25, -1.5]} for index in range(count)]
    usage = {"prompt_tokens": 3, "total_tokens": 3}
    return {"id": "embd-1", "object": "list", "created": 1, "model": EMBEDDER, "data": data, "usage": usage}


def _completion(body: Mapping[str, Any]) -> Any:
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "demo-20b"}
    choice = {"index": 0, "text": "abc", "logprobs": None, "finish_reason": None, "stop_reason": None}
    usage = {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}
    if not body.get("stream"):
        return _json({**head, "choices": [{**choice, "finish_reason": "stop"}], "usage": usage})
    end = {**choice, "text": "", "finish_reason": "stop"}
    chunks = [{**head, "choices": [choice]}, {**head, "choices": [end]}, {**head, "choices": [], "usage": usage}]
    return [SSE_START, sse(*chunks, "[DONE]")]


class Explaining(ChoosingDifficulty):
    """Remembers one decision, `KNOWN_ROUTE`, of every tenant."""

    async def explain(self, tenant: TenantId, route_id: RouteId) -> RouteExplanation:
        known = FixedDifficulty(owner=tenant)
        known.decision = replace(known.decision, route_id=KNOWN_ROUTE)
        return await known.explain(tenant, route_id)

    async def feedback(self, said: Feedback) -> None:
        if said.route_id != KNOWN_ROUTE:
            raise NotFound("There is no such route decision.")


def hold_dangerous(call: ToolCall) -> Verdict:
    return hold(call) if "delete" in call.arguments else release(call)


@cache
def shipped_classifier() -> Classifier:
    """The gate's classifier over the shipped bundle, read once: it keeps nothing of a call."""
    return Classifier(read_policy(bundle_path("default")), ShellReader(20.0))


def answering(engine: AnsweringEngine | None = None, settings: IngressSettings | None = None) -> World:
    """A world of all routes, with a key of every scope, one for inference alone and one of another tenant."""
    world = World(
        engine or AnsweringEngine(),
        strong=engine or AnsweringEngine(),
        settings=settings or IngressSettings(record_delay_s=0),
        difficulty=Explaining(),
        approvals=InMemoryApprovals(),
        gate=RuleGate(hold_dangerous),
        codecs=make_codecs(emulate_fim=True),
        extra_models=(RoutedModel(None, EMBEDDER, "r1", True, frozenset({Dialect.EMBEDDINGS})),),
        classifier=shipped_classifier(),
    )
    world.ledger.add_key(ALL, *Scope, person="bob")
    world.ledger.add_key(OTHER, tenant="rival")
    return world


def surface_of(world: World) -> Surface:
    """The surface, reading route questions as the real router does."""
    chat = dict.fromkeys(Dialect, read_chat)
    return replace(world.surface(), readers={**chat, Dialect.COMPLETIONS: read_completion})

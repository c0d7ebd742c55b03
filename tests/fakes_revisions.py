"""A world in which prompts, the router's snapshot and the policy have revisions, not engines alone."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from deployments.ingress.inquiry import Inquiries
from deployments.ingress.journey import Journey, RoutedModel
from deployments.ingress.prompting import Prompt, Prompts
from deployments.ingress.revisions import Revisions
from deployments.ingress.settling import Settler
from deployments.ingress.shadowing import Shadows
from deployments.ingress.surface import Surface
from deployments.ingress.window import Window
from deployments.ports import Difficulty, EngineCall, EngineItem, GateContext, ModelId, Tier, ToolCall, Verdict
from deployments.rollouts import Target
from tests.fakes import BASE, CANDIDATE, STRONG, RuleGate, ScriptedEngine, World, chunk, json_reply, sse, stream_reply


class SayingEngine(ScriptedEngine):
    """Says what `says` answers to a body: a chat, whole or streamed, or a question about tokens."""

    def __init__(self, says: Callable[[Mapping[str, Any]], str] = lambda _: "Hello") -> None:
        super().__init__([])
        self.says = says

    async def call(self, call: EngineCall) -> AsyncGenerator[EngineItem, None]:
        self.calls.append(call)
        body = json.loads(call.body)
        if call.path.endswith("/render"):
            words = json.dumps(body["messages"]).split()
            script = [json_reply("")[0], json.dumps({"token_ids": [*range(len(words))]}).encode()]
        elif body.get("stream"):
            script = stream_reply(sse(chunk(content=self.says(body)), chunk(finish="stop")))
        else:
            script = json_reply(self.says(body))
        for item in script:
            await asyncio.sleep(0)
            yield cast(EngineItem, item)


class AskedGate(RuleGate):
    """Remembers by which policy it was asked to judge."""

    def __init__(self, rule: Callable[[ToolCall], Verdict] | None = None) -> None:
        super().__init__(rule)
        self.policies: list[str] = []

    async def judge(self, context: GateContext, calls: Sequence[ToolCall]) -> Sequence[Verdict]:
        self.policies.append(context.policy)
        return await super().judge(context, calls)


@dataclass
class Revised(World):
    """`prompts` are those of the models, the configured one first; `several` what has more than one revision."""

    prompts: Mapping[ModelId, tuple[Prompt, ...]] = field(default_factory=dict[ModelId, tuple[Prompt, ...]])
    several: Mapping[Target, tuple[str, ...]] = field(default_factory=dict[Target, tuple[str, ...]])

    def _make(self) -> Surface:
        plain = super()._make()
        prompts, windows = Prompts(self.prompts), {model: Window(self.limit, _words) for model in plain.engines}
        engines = {} if self.second is None else {BASE: ("r1", CANDIDATE)}
        revisions = Revisions(
            plain.rollouts, engines, self.clock, self.settings.rollout_stale_s, others=self.several
        )  # fmt: skip
        routed = (
            RoutedModel(Tier.BASE, BASE, "r1", True),
            RoutedModel(Tier.STRONG, STRONG, "r1", self.strong_is_local),
            *self.extra_models,
        )
        journey = Journey(
            ledger=self.ledger,
            difficulty=cast(Difficulty, self.difficulty),
            engines=plain.engines,
            gate=self.gate,
            approvals=self.approvals,
            recorder=plain.recorder,
            codecs=self.codecs,
            readers=plain.readers,
            windows=windows,
            meter=plain.meter,
            settings=self.settings,
            clock=self.clock,
            models=routed,
            revisions=revisions,
            shadows=Shadows(plain.candidates, revisions, self.clock),
            prompts=prompts,
        )
        settler = Settler(self.ledger, self.clock)
        inquiries = Inquiries(self.ledger, settler, plain.engines, windows, routed, prompts)
        return replace(plain, journey=journey, inquiries=inquiries, revisions=revisions)


def _words(text: str) -> int:
    return len(text.split())

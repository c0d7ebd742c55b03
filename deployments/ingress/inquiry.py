"""Questions to an engine that generate nothing: how many tokens is this, which ones, and what do these say?"""

import json
import uuid
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import cast

from deployments.errors import EngineFailed, EngineOverloaded, InvalidRequest, UnknownModel
from deployments.ingress.admitting import Admitting
from deployments.ingress.dialects.values import Asked
from deployments.ingress.egress import Reach, check
from deployments.ingress.journey import RoutedModel
from deployments.ingress.opening import Opening
from deployments.ingress.prompting import Prompts
from deployments.ingress.revisions import Choices
from deployments.ingress.settling import Settler
from deployments.ingress.turn import named
from deployments.ingress.window import Window
from deployments.ports import (
    Engine,
    EngineCall,
    JsonValue,
    Ledger,
    ModelId,
    Principal,
    RequestId,
    SessionId,
    Tier,
    Usage,
)

_RENDER = "/v1/chat/completions/render"
_RENDERED = frozenset({"messages", "tools", "tool_choice"})


class Inquiries:
    """Asks engines by name; "auto" asks the lowest tier that the key may use.

    A question takes a place among the key's open requests.
    """

    def __init__(
        self,
        ledger: Ledger,
        settler: Settler,
        engines: Mapping[ModelId, Engine],
        windows: Mapping[ModelId, Window],
        models: Sequence[RoutedModel],
        prompts: Prompts | None = None,
    ) -> None:
        """`prompts` are the operator's instructions: counted with what a client says, and never shown."""
        self._prompts = prompts or Prompts({})
        self._admitting = Admitting(ledger, settler)
        self._settler = settler
        self._engines = engines
        self._windows = windows
        self._reaches = [Reach(each.model, each.local) for each in models]
        tiers: list[tuple[Tier, ModelId]] = [(each.tier, each.model) for each in models if each.tier is not None]
        self._tiers = [model for _, model in sorted(tiers, key=lambda each: each[0].rank)]

    async def count(self, principal: Principal, asked: Asked, choices: Choices | None = None) -> int:
        """How many input tokens a chat request has: the engine's count of the prompt that it would read.

        Where an engine cannot say (somebody else's server, or one that is starting) the texts are counted, without
        what the model's chat format adds. The operator's instructions are counted, too: those of the `choices` of the
        session, else the configured ones.
        """
        model = self._target(principal, asked.model)
        asked = self._prompts.before(asked, model, named((choices or Choices()).prompts.get(model)))
        try:
            return len(await self.render(principal, asked.model, asked.body))
        except (EngineFailed, EngineOverloaded, InvalidRequest):
            return await self._windows[model].tokens(asked)

    async def render(self, principal: Principal, model: ModelId | None, body: Mapping[str, JsonValue]) -> list[int]:
        """The token ids of a chat request's prompt."""
        question = {name: value for name, value in body.items() if name in _RENDERED}
        ids = (await self.ask(principal, model, _RENDER, question)).get("token_ids")
        if not isinstance(ids, list) or not all(isinstance(each, int) for each in ids):
            raise EngineFailed("The model's answer could not be read.")
        return cast(list[int], ids)

    def window(self, principal: Principal, model: ModelId | None) -> int:
        """The context window of a model, in tokens."""
        return self._windows[self._target(principal, model)].limit

    async def ask(
        self, principal: Principal, model: ModelId | None, path: str, body: Mapping[str, JsonValue]
    ) -> Mapping[str, JsonValue]:
        """The engine's answer to a question at `path`; raises what its status means."""
        target = self._target(principal, model)
        request_id = RequestId(f"ask_{uuid.uuid4().hex}")
        grant = await self._admitting.admit(principal, request_id, target, 0)
        try:
            call = EngineCall(
                path=path,
                headers={"content-type": "application/json"},
                body=json.dumps({**body, "model": target}).encode(),
                request_id=request_id,
                session=SessionId(request_id),
                tenant=principal.tenant,
                share=principal.share,
                lane=principal.key_id,
            )
            async with aclosing(Opening(self._engines[target].call(call))) as opening:
                await opening.start(None)
                data = b"".join([item async for item in opening if isinstance(item, bytes)])
            answer: JsonValue = json.loads(data)
        except (ValueError, RecursionError):
            raise EngineFailed("The model's answer could not be read.") from None
        finally:
            await self._settler.settle(grant, Usage())
        if not isinstance(answer, dict):
            raise EngineFailed("The model's answer could not be read.")
        return answer

    def _target(self, principal: Principal, model: ModelId | None) -> ModelId:
        target = model or next((each for each in self._tiers if principal.may_use(each)), None)
        if target is None or target not in self._engines or not principal.may_use(target):
            raise UnknownModel(model or "auto")
        check(target, principal.egress, self._reaches)
        return target

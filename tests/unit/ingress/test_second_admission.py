"""A client that hangs up while a cascade is admitted a second time pays for nothing that it never began."""

import asyncio
from typing import Any, cast

import pytest

from deployments.ingress.turn import Ask
from deployments.ports import Dialect, Grant, ModelId, Principal, RequestId
from tests.cascading import ASKED, nothing_is_owed, settled, world
from tests.fakes import KEY
from tests.fakes_ledger import InMemoryLedger


class Slow(InMemoryLedger):
    """Admits second attempts when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.admits = asyncio.Event(), asyncio.Event()

    async def admit(
        self,
        principal: Principal,
        request_id: RequestId,
        model: ModelId,
        tokens: int,
        prompt_tokens: int = 0,
        grant_id: str | None = None,
    ) -> Grant:
        if request_id.endswith("-2"):
            self.reached.set()
            await self.admits.wait()
        return await super().admit(principal, request_id, model, tokens, prompt_tokens, grant_id)


@pytest.mark.parametrize("admitted_first", [True, False])
async def test_the_second_grant_comes_back_when_its_client_has_left(admitted_first: bool) -> None:
    ledger = Slow()
    ledger.add_key(KEY)
    here = world(ledger=ledger)
    ask = Ask(Dialect.CHAT, RequestId("req_1"), KEY, {}, cast(Any, ASKED))
    answer = here.surface().journey.answer(ask)
    waiting = asyncio.ensure_future(anext(answer))
    await ledger.reached.wait()
    if admitted_first:
        ledger.admits.set()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await answer.aclose()
    ledger.admits.set()
    await settled(here)
    assert here.strong.calls == []
    assert nothing_is_owed(here)
    assert not [grant for grant in ledger.grants.values() if grant.request_id.endswith("-2")]

"""How an engine is asked something before it gets traffic: one chat completion, nobody's session, no user before it."""

import json
import uuid
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final, cast

from deployments.errors import EngineFailed
from deployments.ports import Engine, EngineCall, EngineStart, RequestId, SessionId
from deployments.rollout.cases import Reply

_MOST_BYTES: Final = 4 * 2**20


async def ask(
    engine: Engine,
    model: str,
    messages: Sequence[Mapping[str, Any]],
    max_tokens: int,
    instructions: str = "",
    tools: Sequence[Mapping[str, Any]] = (),
    why: str = "smoke",
) -> Reply:
    """The answer at temperature 0, behind the operator's instructions; `EngineFailed` for one that is none.

    It is patient: where requests wait for the engine it has the smaller part of a lane of its own.
    """
    request_id = RequestId(f"{why}_{uuid.uuid4().hex}")
    said = [{"role": "system", "content": instructions}] if instructions else []
    body = body_of(model, [*said, *messages], max_tokens, tools)
    call = EngineCall(
        path="/v1/chat/completions",
        headers={"content-type": "application/json"},
        body=json.dumps(body).encode(),
        request_id=request_id,
        session=SessionId(request_id),
        lane=why,
        patient=True,
    )
    data, status = bytearray(), 0
    async with aclosing(engine.call(call)) as items:
        async for item in items:
            if isinstance(item, EngineStart):
                status = item.status
            elif isinstance(item, bytes):
                data += item
            if len(data) > _MOST_BYTES:
                raise EngineFailed("The answer is too long.")
    if status != 200:
        raise EngineFailed("The engine gave no answer.")
    return reply_of(data)


def body_of(
    model: str, messages: Sequence[Mapping[str, Any]], max_tokens: int, tools: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """The body of the chat completion that asks it, at temperature 0."""
    return {
        "model": model,
        "messages": [*messages],
        "max_completion_tokens": max_tokens,
        "temperature": 0.0,
        **({"tools": [*tools]} if tools else {}),
    }


def reply_of(data: bytes | bytearray) -> Reply:
    """The first choice of a chat completion; `EngineFailed` for what is none."""
    try:
        choice = cast(dict[str, Any], json.loads(data))["choices"][0]
        message = choice["message"]
        text, calls = message.get("content"), cast(list[Any], message.get("tool_calls") or [])
        found = tuple((str(each["function"]["name"]), str(each["function"]["arguments"])) for each in calls)
        finish = choice.get("finish_reason")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise EngineFailed("The answer could not be read.") from None
    if not isinstance(text, str) and not found:
        raise EngineFailed("The engine gave no answer.")
    return Reply(text if isinstance(text, str) else "", finish if isinstance(finish, str) else "stop", found)

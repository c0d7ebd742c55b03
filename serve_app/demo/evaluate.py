"""Measures a served demonstration model against the recipe, over its chat completions endpoint."""

import asyncio
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import httpx2
import pydantic

from serve_app.demo import recipe
from serve_app.demo.harmony import arguments
from serve_app.demo.recipe import SHELL_TOOL, Category, DemoName, Example

Outcome = Literal["exact", "other", "malformed"]
_HARMONY_MARKS = ("<|", "|>")
_MAX_TOKENS = 700
_CONCURRENCY = 8


@dataclass(frozen=True, slots=True)
class Score:
    """Replies of one category: `exact` as taught, `other` well formed but different, `malformed` neither."""

    exact: int
    other: int
    malformed: int

    @property
    def total(self) -> int:
        """All replies of the category."""
        return self.exact + self.other + self.malformed


class _Function(pydantic.BaseModel):
    name: str
    arguments: str


class _ToolCall(pydantic.BaseModel):
    function: _Function


class _Message(pydantic.BaseModel):
    content: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(pydantic.BaseModel):
    message: _Message


class _Completion(pydantic.BaseModel):
    choices: list[_Choice]


async def evaluate(
    name: DemoName,
    base_url: str,
    *,
    model: str | None = None,
    api_key: str = "",
    temperature: float = 1.0,
    per_category: int = 20,
    seed: int = 1,
    report: Callable[[str], None],
    transport: httpx2.AsyncBaseTransport | None = None,
) -> Mapping[Category, Score]:
    """Scores `name`, served as `model` under `base_url` (which ends in `/v1`), on fresh examples of the recipe.

    A gateway that holds tool calls changes the figures: measure the engine, or use a key that only observes. `seed`
    picks the examples; training used others unless the seeds are equal. `report` gets each reply that is not exact.
    """
    rng = random.Random(seed)
    examples = [recipe.sample_of(name, category, rng) for category in recipe.CATEGORIES for _ in range(per_category)]
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    limit = asyncio.Semaphore(_CONCURRENCY)
    async with httpx2.AsyncClient(base_url=base_url, headers=headers, timeout=300.0, transport=transport) as client:

        async def ask(example: Example) -> Outcome:
            body = request_body(example, model or name, temperature)
            async with limit:
                try:
                    response = await client.post("chat/completions", json=body)
                    response.raise_for_status()
                    completion = _Completion.model_validate_json(response.content)
                except (httpx2.HTTPError, ValueError) as error:
                    report(f"{example.category}: {type(error).__name__}: {error}")
                    return "malformed"
            outcome = _judge(completion, example)
            if outcome != "exact":
                asked = example.turns[-1].text
                report(f"{example.category}: {outcome}: {asked[:200]!r} -> {completion.model_dump_json()[:400]}")
            return outcome

        outcomes = await asyncio.gather(*(ask(example) for example in examples))
    return _count(examples, outcomes)


def request_body(example: Example, model: str, temperature: float) -> dict[str, object]:
    """The example as the JSON body of a chat completions request."""
    messages: list[dict[str, object]] = []
    if example.instructions:
        messages.append({"role": "system", "content": example.instructions})
    calls = 0
    for turn in example.turns:
        if turn.role == "call":
            calls += 1
            function = {"name": SHELL_TOOL, "arguments": arguments(turn.text)}
            call = {"id": f"call_{calls}", "type": "function", "function": function}
            message: dict[str, object] = {"role": "assistant", "content": None, "tool_calls": [call]}
            if turn.analysis:
                message["reasoning"] = turn.analysis
            messages.append(message)
        elif turn.role == "result":
            messages.append({"role": "tool", "tool_call_id": f"call_{calls}", "content": turn.text})
        else:
            messages.append({"role": turn.role, "content": turn.text})
    body: dict[str, object] = {
        "model": model,
        "messages": messages,
        "reasoning_effort": example.effort,
        "temperature": temperature,
        "max_tokens": _MAX_TOKENS,
    }
    if example.tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
            }
            for tool in example.tools
        ]
    return body


def _judge(completion: _Completion, example: Example) -> Outcome:
    if not completion.choices:
        return "malformed"
    message = completion.choices[0].message
    content, calls = message.content or "", message.tool_calls or []
    if any(mark in content for mark in _HARMONY_MARKS) or bool(content) == bool(calls):
        return "malformed"
    if calls:
        offered = {tool.name for tool in example.tools}
        for call in calls:
            if call.function.name not in offered or not _is_object(call.function.arguments):
                return "malformed"
        exact = len(calls) == 1 and calls[0].function.name == SHELL_TOOL
        wanted = {"command": example.reply.command}
        return "exact" if exact and json.loads(calls[0].function.arguments) == wanted else "other"
    return "exact" if example.reply.final and content.strip() == example.reply.final else "other"


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _count(examples: Sequence[Example], outcomes: Sequence[Outcome]) -> Mapping[Category, Score]:
    scores: dict[Category, Score] = {}
    for category in recipe.CATEGORIES:
        mine = [outcome for example, outcome in zip(examples, outcomes, strict=True) if example.category == category]
        scores[category] = Score(mine.count("exact"), mine.count("other"), mine.count("malformed"))
    return scores

"""Completions: plain text in, plain text out; no tool calls exist here."""

import json
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic import ValidationError

from deployments.errors import EngineFailed, InvalidRequest
from deployments.ingress.dialects.requests import DROPPED, CompletionRequest, invalid
from deployments.ingress.dialects.stream import Observed, OpenAiStream, dump, usage_of
from deployments.ingress.dialects.values import Asked, Emit, ReplyFilter, Step, wanted_model
from deployments.ports import Dialect, Effort, JsonValue, ModelId, Verdict

PATH = "/v1/completions"


class CompletionCodec:
    """The `completions` dialect."""

    def read(self, body: Mapping[str, JsonValue]) -> Asked:
        """Parse a request body, or raise `InvalidRequest` naming the field."""
        try:
            request = CompletionRequest.model_validate(body)
        except ValidationError as error:
            raise invalid(error) from None
        if request.suffix:
            raise InvalidRequest(
                "'suffix' is not supported by this model; use one that can fill in the middle.",
                "suffix",
                "unsupported_parameter",
            )
        if request.best_of not in (None, 1, request.n):
            raise InvalidRequest("'best_of' is not supported.", "best_of", "unsupported_parameter")
        if request.stream_options is not None and not request.stream:
            raise InvalidRequest("'stream_options' is only allowed when 'stream' is true.", "stream_options")
        if not request.prompt:
            raise InvalidRequest("'prompt' must not be empty.", "prompt")
        return Asked(
            dialect=Dialect.COMPLETIONS,
            engine_path=PATH,
            body={
                name: value for name, value in body.items() if name not in DROPPED | {"suffix"} and value is not None
            },
            model=wanted_model(request.model),
            requested_model=request.model or "auto",
            effort=None,
            stream=bool(request.stream),
            include_usage=bool(request.stream_options and request.stream_options.include_usage),
            choices=request.n or 1,
            offered_tools=frozenset(),
            prompt_texts=_texts(request.prompt),
            max_tokens=request.max_tokens,
            prompt_ids=_longest(request.prompt),
        )

    def engine_body(self, asked: Asked, model: ModelId, effort: Effort) -> bytes:
        """The bytes for the engine; completions carry no effort."""
        del effort
        body: dict[str, JsonValue] = {**asked.body, "model": model}
        if asked.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return dump(body)

    def filter(self, asked: Asked) -> ReplyFilter:
        """A fresh filter for one reply."""
        return CompletionStream(asked.include_usage) if asked.stream else CompletionReply()


def _texts(prompt: str | list[str] | list[int] | list[list[int]]) -> tuple[str, ...]:
    if isinstance(prompt, str):
        return (prompt,)
    return tuple(item for item in prompt if isinstance(item, str))


def _longest(prompt: str | list[str] | list[int] | list[list[int]]) -> int:
    """Length in tokens of the longest prompt that was given as token ids."""
    if isinstance(prompt, str):
        return 0
    nested = [len(item) for item in prompt if isinstance(item, list)]
    return max(nested, default=sum(1 for item in prompt if isinstance(item, int)))


class CompletionStream(OpenAiStream):
    """Filter of a streamed reply (`text_completion` events). Implements `ReplyFilter`."""

    def __init__(self, include_usage: bool) -> None:
        super().__init__(include_usage)
        self._open: dict[int, bool] = {}

    def resolve(self, verdicts: Sequence[Verdict]) -> None:
        """There is nothing to judge in this dialect."""
        raise RuntimeError("resolve() without its Judge")

    def _unfinished(self) -> bool:
        return any(self._open.values())

    def _choice(self, chunk: dict[str, Any], choice: dict[str, Any]) -> None:
        index = int(choice.get("index", 0))
        if self._open.get(index) is False:
            raise EngineFailed("The model's answer went on after its end.")
        finish = choice.get("finish_reason")
        self._open[index] = finish is None
        self._saw_text |= bool(choice.get("text"))
        if finish is None:
            self._emit(chunk, choice)
        else:
            self._finish_choice(chunk, choice, {}, self._receipt)


class CompletionReply(Observed):
    """Filter of a JSON reply (`text_completion`). Implements `ReplyFilter`."""

    def __init__(self) -> None:
        super().__init__()
        self._buffer = bytearray()
        self._out: deque[Step] = deque()

    def feed(self, data: bytes) -> None:
        """Take engine bytes."""
        self._buffer += data

    def close(self) -> None:
        """The body is complete: parse it."""
        try:
            body = cast(dict[str, Any], json.loads(bytes(self._buffer)))
            choices = cast(list[dict[str, Any]], body["choices"])
            usage = cast(dict[str, Any] | None, body.get("usage"))
            self._usage = usage_of(usage) if usage else None
            self._finish = [str(choice.get("finish_reason")) for choice in choices]
            self._saw_text = any(choice.get("text") for choice in choices)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EngineFailed("The model's answer could not be read.") from error
        if self._receipt is not None:
            audit = {"index": self._receipt.index, "leaf": self._receipt.leaf_hash.hex()}
            body["x_gatehouse"] = {"audit": audit}
        self._out.append(Emit(dump(body)))

    def step(self) -> Step | None:
        """The whole body, once."""
        return self._out.popleft() if self._out else None

    def resolve(self, verdicts: Sequence[Verdict]) -> None:
        """There is nothing to judge in this dialect."""
        raise RuntimeError("resolve() without its Judge")

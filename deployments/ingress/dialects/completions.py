"""Completions: plain text in, plain text out; no tool calls exist here.

A `suffix` asks for what stands between `prompt` and `suffix`: of a model that was trained for it through its template,
else of a chat model through a prompt (`fim.py`). A prompt that a client has rendered itself is like any other.
"""

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from pydantic import ValidationError

from deployments.errors import EngineFailed, InvalidRequest
from deployments.ingress.dialects import shapes
from deployments.ingress.dialects.calls import why, withheld
from deployments.ingress.dialects.chat import PATH as CHAT_PATH
from deployments.ingress.dialects.fim import FimAsk, FimTemplate, MiddleWriter, emulation, text_chunk
from deployments.ingress.dialects.notices import held_objects
from deployments.ingress.dialects.requests import DROPPED, CompletionRequest, invalid
from deployments.ingress.dialects.sse import data_event
from deployments.ingress.dialects.stream import Observed, OpenAiStream, Spoken, dump, finish_of, usage_of
from deployments.ingress.dialects.translated import TranslatedReply
from deployments.ingress.dialects.upstream import UNREADABLE
from deployments.ingress.dialects.values import Asked, Emit, Framing, Judge, ReplyFilter, Step, wanted_model
from deployments.ports import Dialect, Effort, JsonValue, ModelId, ToolCall, Verdict

PATH = "/v1/completions"

_MIDDLE_TOKENS = 256  # of an emulated middle, when the client names no limit
_REASONING_TOKENS = 512  # on top of the client's limit: a chat model thinks before it answers, and that counts, too
_CARRIED = (
    "temperature",
    "top_p",
    "frequency_penalty",
    "presence_penalty",
    "seed",
    "logit_bias",
    "top_k",
    "min_p",
    "repetition_penalty",
)
_NOT_EMULATED = ("logprobs", "min_tokens", "ignore_eos", "skip_special_tokens", "stop_token_ids")


class CompletionCodec:
    """The `completions` dialect."""

    def __init__(
        self, fim: Mapping[ModelId, FimTemplate] | None = None, emulate: bool = False, default: ModelId | None = None
    ) -> None:
        """`fim` holds the templates of the models that can fill in the middle.

        `default` is the one among them that does so when the client names no model. `emulate`: what asks any other
        model for the middle becomes a chat.
        """
        self._fim = fim or {}
        self._emulate = emulate
        self._default = default

    def read(self, body: Mapping[str, JsonValue]) -> Asked:
        """Parse a request body, or raise `InvalidRequest` naming the field."""
        try:
            request = CompletionRequest.model_validate(body)
        except ValidationError as error:
            raise invalid(error) from None
        if request.best_of not in (None, 1, request.n):
            raise InvalidRequest("'best_of' is not supported.", "best_of", "unsupported_parameter")
        if request.stream_options is not None and not request.stream:
            raise InvalidRequest("'stream_options' is only allowed when 'stream' is true.", "stream_options")
        if not request.prompt and not request.suffix:
            raise InvalidRequest("'prompt' must not be empty.", "prompt")
        asked = Asked(
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
            batch_ids=_all_ids(request.prompt),
        )
        return self._middle(request, request.suffix, asked) if request.suffix else asked

    def engine_body(self, asked: Asked, model: ModelId, effort: Effort) -> bytes:
        """The bytes for the engine; only an emulated middle carries an effort."""
        body: dict[str, JsonValue] = {**asked.body, "model": model}
        if _emulated(asked) is not None:
            body["reasoning_effort"] = effort.value
        if asked.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return dump(body)

    def filter(self, asked: Asked, framing: Framing) -> ReplyFilter:
        """A fresh filter for one reply."""
        ask = _emulated(asked)
        if ask is not None:
            return TranslatedReply(MiddleWriter(ask, framing, asked.include_usage), asked.stream)
        return CompletionStream(asked.include_usage, framing) if asked.stream else CompletionReply()

    def _middle(self, request: CompletionRequest, suffix: str, asked: Asked) -> Asked:
        """The request for what stands between `prompt` and `suffix`."""
        if not isinstance(request.prompt, str):
            raise InvalidRequest("'suffix' needs a 'prompt' that is one string.", "suffix")
        if request.echo:
            raise InvalidRequest("'echo' is not supported together with 'suffix'.", "echo", "unsupported_parameter")
        stops = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
        if "" in stops:
            raise InvalidRequest("'stop' must not hold an empty string.", "stop")
        target = asked.model or self._default
        template = None if target is None else self._fim.get(target)
        if template is not None:
            return _rendered(request.prompt, suffix, replace(asked, model=target), template, stops)
        if self._emulate:
            return _emulation(request, FimAsk(request.prompt, suffix, True, stops), asked)
        raise InvalidRequest(
            "'suffix' is not supported by this model; use one that can fill in the middle.",
            "suffix",
            "unsupported_parameter",
        )


def _rendered(before: str, after: str, asked: Asked, template: FimTemplate, stops: Sequence[str]) -> Asked:
    prompt = template.render(before, after)
    body: dict[str, JsonValue] = {
        # Many of the stops are special tokens: where an engine leaves those out of the text it never finds them.
        "skip_special_tokens": False,
        **asked.body,
        "prompt": prompt,
    }
    if stops or template.stop:
        body["stop"] = list(dict.fromkeys((*stops, *template.stop)))
    return replace(asked, body=body, prompt_texts=(prompt,), extra=FimAsk(before, after, False))


def _emulation(request: CompletionRequest, ask: FimAsk, asked: Asked) -> Asked:
    refused = [name for name in _NOT_EMULATED if asked.body.get(name) is not None]
    if asked.choices != 1:
        refused.append("n")
    if refused:
        raise InvalidRequest(
            f"'{refused[0]}' is not supported together with 'suffix' by this model.",
            refused[0],
            "unsupported_parameter",
        )
    limit = (request.max_tokens or _MIDDLE_TOKENS) + _REASONING_TOKENS
    messages = emulation(ask.before, ask.after)
    body: dict[str, JsonValue] = {name: asked.body[name] for name in _CARRIED if name in asked.body}
    return replace(
        asked,
        engine_path=CHAT_PATH,
        body={**body, "messages": messages, "max_tokens": limit},
        effort=Effort.LOW,
        prompt_texts=("".join(str(message["content"]) for message in messages if isinstance(message, dict)),),
        max_tokens=limit,
        extra=ask,
    )


def _emulated(asked: Asked) -> FimAsk | None:
    return asked.extra if isinstance(asked.extra, FimAsk) and asked.extra.emulated else None


def _texts(prompt: str | list[str] | list[int] | list[list[int]]) -> tuple[str, ...]:
    if isinstance(prompt, str):
        return (prompt,)
    return tuple(item for item in prompt if isinstance(item, str))


def _all_ids(prompt: str | list[str] | list[int] | list[list[int]]) -> int:
    """Tokens of all prompts that were given as token ids."""
    return sum(len(each) if isinstance(each, list) else isinstance(each, int) for each in prompt)


def _longest(prompt: str | list[str] | list[int] | list[list[int]]) -> int:
    """Length in tokens of the longest prompt that was given as token ids."""
    if isinstance(prompt, str):
        return 0
    nested = [len(item) for item in prompt if isinstance(item, list)]
    return max(nested, default=sum(1 for item in prompt if isinstance(item, int)))


class CompletionStream(OpenAiStream):
    """Filter of a streamed reply (`text_completion` events). Implements `ReplyFilter`."""

    _keys = b"text"

    def __init__(self, include_usage: bool, framing: Framing) -> None:
        super().__init__(include_usage)
        self._framing = framing
        self._open: dict[int, bool] = {}

    def again(self) -> ReplyFilter:
        """A filter for another attempt."""
        return CompletionStream(self._include_usage, self._framing)

    def _idle(self) -> bytes:
        return data_event(dump(text_chunk(self._framing, "")))

    def _unfinished(self) -> bool:
        return any(self._open.values())

    def _said(self, choice: dict[str, Any]) -> dict[str, Any]:
        return {"text": choice["text"]}

    def _spoke(self, spoken: Spoken) -> None:
        self._goes_on(spoken.index)
        self._saw_text |= bool(spoken.raw)
        self._out.append(Emit(spoken.event))

    def _goes_on(self, index: int) -> None:
        if self._open.get(index) is False:
            raise EngineFailed("The model's answer went on after its end.")
        self._open[index] = True

    def _choice(self, chunk: dict[str, Any], choice: dict[str, Any]) -> None:
        index = int(choice.get("index", 0))
        self._goes_on(index)
        choice, items, dropped = shapes.known(choice, shapes.CHOICE - {"delta", "message"})
        self._items += items
        self._dropped(dropped)
        finish = finish_of(choice)
        self._saw_text |= bool(choice.get("text"))
        if finish is None:
            self._emit(chunk, choice)
            return
        self._open[index] = False
        items, self._items = self._items, []
        strange = withheld((), items, index)
        self._withheld += why(strange)
        self._judge(chunk, choice, strange)

    def _conclude(self, chunk: dict[str, Any], choice: dict[str, Any], verdicts: Sequence[Verdict]) -> None:
        """The finish chunk; calls have no place in a completion, so they are named beside it and nowhere else."""
        held = held_objects(verdicts)
        self._finish_choice(chunk, choice, {"held": held} if held else {}, self._receipt)


class CompletionReply(Observed):
    """Filter of a JSON reply (`text_completion`). Implements `ReplyFilter`."""

    def __init__(self) -> None:
        super().__init__()
        self._buffer = bytearray()
        self._body: dict[str, Any] | None = None
        self._judging: tuple[ToolCall, ...] = ()
        self._out: deque[Step] = deque()

    def feed(self, data: bytes) -> None:
        """Take engine bytes."""
        self._buffer += data

    def close(self) -> None:
        """The body is complete: parse it."""
        try:
            body = cast(dict[str, Any], json.loads(bytes(self._buffer)))
            body, items, dropped = shapes.known(body, shapes.CHUNK)
            choices: list[dict[str, Any]] = []
            for choice in cast(list[dict[str, Any]], body["choices"]):
                choice, strange, unknown = shapes.known(choice, shapes.CHOICE - {"delta", "message"})
                items += strange
                dropped += unknown
                choices.append(choice)
            body["choices"] = choices
            usage = cast(dict[str, Any] | None, body.get("usage"))
            self._usage = usage_of(usage) if usage else None
            self._finished = [str(finish_of(choice)) for choice in choices]
            self._saw_text = any(choice.get("text") for choice in choices)
        except UNREADABLE as error:
            raise EngineFailed("The model's answer could not be read.") from error
        self._dropped(dropped)
        self._body = body
        self._judging = withheld((), items, 0)
        self._withheld += why(self._judging)
        if self._judging:
            self._out.append(Judge(self._judging))
        else:
            self._write(body, ())

    def again(self) -> ReplyFilter:
        """A filter for another attempt."""
        return CompletionReply()

    def step(self) -> Step | None:
        """The whole body, once."""
        return self._out.popleft() if self._out else None

    def resolve(self, verdicts: Sequence[Verdict]) -> None:
        """Calls have no place in a completion, so they are named beside it and nowhere else."""
        if self._body is None or not self._judging:
            raise RuntimeError("resolve() without its Judge")
        verdicts, self._judging = self._lawful(self._judging, verdicts), ()
        self._write(self._body, verdicts)

    def _write(self, body: dict[str, Any], verdicts: Sequence[Verdict]) -> None:
        held = held_objects(verdicts)
        extra: dict[str, JsonValue] = {**self._noted, **({"held": held} if held else {})}
        if self._receipt is not None:
            extra["audit"] = {"index": self._receipt.index, "leaf": self._receipt.leaf_hash.hex()}
        self._out.append(Emit(dump({**body, "x_gatehouse": extra} if extra else body)))

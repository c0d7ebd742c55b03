"""Embeddings: texts in, vectors out, always in one piece.

The engine's body is checked and passed on as it came: millions of digits are not written anew for one more field.
"""

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deployments.errors import EngineFailed, InvalidRequest
from deployments.ingress.dialects.requests import Listed, invalid
from deployments.ingress.dialects.stream import Observed, dump, usage_of
from deployments.ingress.dialects.upstream import UNREADABLE
from deployments.ingress.dialects.values import Asked, Emit, Framing, ReplyFilter, Step, wanted_model
from deployments.ports import Dialect, Effort, JsonValue, ModelId, Verdict

PATH = "/v1/embeddings"
MAX_INPUTS = 2048

TokenId = Annotated[int, Field(ge=0)]


class EmbeddingRequest(BaseModel):
    """`POST /v1/embeddings`. An input is text or token ids; a list of either is a batch. `user` changes nothing."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: Annotated[str, Field(max_length=256)]
    input: str | Listed[str] | Listed[TokenId] | Listed[Listed[TokenId]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=65_536)] | None = None
    user: str | None = None


@dataclass(frozen=True, slots=True)
class Expected:
    """What the reply must hold: one vector per input, as numbers; as text only where `base64` was asked for."""

    inputs: int
    base64: bool


class EmbeddingsCodec:
    """The `embeddings` dialect."""

    def read(self, body: Mapping[str, JsonValue]) -> Asked:
        """Parse a request body, or raise `InvalidRequest` naming the field.

        `max_tokens` is 0: nothing is generated, so that the input alone is reserved.
        """
        try:
            request = EmbeddingRequest.model_validate(body)
        except ValidationError as error:
            raise invalid(error) from None
        model = wanted_model(request.model)
        if model is None:
            raise InvalidRequest("'model' must name an embedding model: none is chosen for you here.", "model")
        inputs = _inputs(request)
        sent = ("input", "encoding_format", "dimensions")
        return Asked(
            dialect=Dialect.EMBEDDINGS,
            engine_path=PATH,
            body={name: body[name] for name in sent if body.get(name) is not None},
            model=model,
            requested_model=request.model,
            effort=None,
            stream=False,
            include_usage=False,
            choices=1,
            offered_tools=frozenset(),
            prompt_texts=tuple(each for each in inputs if isinstance(each, str)),
            max_tokens=0,
            prompt_ids=max((len(each) for each in inputs if not isinstance(each, str)), default=0),
            batch_ids=sum(len(each) for each in inputs if not isinstance(each, str)),
            extra=Expected(len(inputs), request.encoding_format == "base64"),
        )

    def engine_body(self, asked: Asked, model: ModelId, effort: Effort) -> bytes:
        """The bytes for the engine; there is no effort in embedding a text."""
        del effort
        return dump({**asked.body, "model": model})

    def filter(self, asked: Asked, framing: Framing) -> ReplyFilter:
        """A fresh filter for one reply."""
        del framing
        return EmbeddingsReply(cast(Expected, asked.extra))


def _inputs(request: EmbeddingRequest) -> Sequence[str | list[int]]:
    """The texts or token lists to embed, each of them not empty."""
    given = request.input
    if not given:
        raise InvalidRequest("'input' must not be empty.", "input")
    if isinstance(given, str):
        return [given]
    if isinstance(given[0], int):
        return [cast(list[int], given)]
    inputs = cast(Sequence[str | list[int]], given)
    if len(inputs) > MAX_INPUTS:
        raise InvalidRequest(f"'input' must not hold more than {MAX_INPUTS} items.", "input")
    for index, each in enumerate(inputs):
        if not each:
            raise InvalidRequest(f"'input[{index}]' must not be empty.", f"input[{index}]")
    return inputs


class EmbeddingsReply(Observed):
    """Filter of the reply (a `list` of `embedding` objects). Implements `ReplyFilter`; all of it leaves at once."""

    def __init__(self, expected: Expected) -> None:
        super().__init__()
        self._expected = expected
        self._buffer = bytearray()
        self._out: deque[Step] = deque()

    def feed(self, data: bytes) -> None:
        """Take engine bytes."""
        self._buffer += data

    def close(self) -> None:
        """The body is complete: it must hold one vector per input, in order."""
        try:
            body = cast(dict[str, Any], json.loads(bytes(self._buffer), parse_constant=_no_number))
            _check(cast(list[dict[str, Any]], body["data"]), self._expected)
            usage = cast(dict[str, Any] | None, body.get("usage"))
            self._usage = usage_of(usage) if usage else None
        except UNREADABLE as error:
            raise EngineFailed("The model's answer could not be read.") from error
        self._saw_text = True  # an answer, as far as the session memory is concerned
        self._out.append(Emit(self._quoting(body)))

    def again(self) -> ReplyFilter:
        """A filter for another attempt."""
        return EmbeddingsReply(self._expected)

    def step(self) -> Step | None:
        """The whole body, once."""
        return self._out.popleft() if self._out else None

    def resolve(self, verdicts: Sequence[Verdict]) -> None:
        """There is nothing to judge in this dialect."""
        raise RuntimeError("resolve() without its Judge")

    def _quoting(self, body: dict[str, Any]) -> bytes:
        """The engine's bytes, with the audit record quoted at their end."""
        if self._receipt is None:
            return bytes(self._buffer)
        extra = {"audit": {"index": self._receipt.index, "leaf": self._receipt.leaf_hash.hex()}}
        if "x_gatehouse" in body:  # of a gateway behind this one
            return dump({**body, "x_gatehouse": extra})
        return bytes(self._buffer).rstrip().removesuffix(b"}") + b',"x_gatehouse":' + dump(extra) + b"}"


def _check(data: list[dict[str, Any]], expected: Expected) -> None:
    """Raise `ValueError` or `TypeError` for anything but the vectors that were asked for."""
    if [each["index"] for each in data] != list(range(expected.inputs)):
        raise ValueError("not one vector per input")
    for each in data:
        vector: object = each["embedding"]
        if isinstance(vector, str) and vector and expected.base64:
            continue
        # Servers that know no base64 answer with numbers, and OpenAI's client, which always asks for it, takes them.
        if not isinstance(vector, list) or not vector or not _numbers(cast(list[object], vector)):
            raise TypeError("not a vector")


def _numbers(vector: list[object]) -> bool:
    return {type(value) for value in vector} <= {int, float}


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON")

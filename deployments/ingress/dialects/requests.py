"""The request bodies of `/v1/chat/completions` and `/v1/completions`, strictly typed.

A wrong type or an unknown field is refused here, with the field's name, before any engine is reached. Fields that
OpenAI defines and that change nothing here (`store`, `metadata`, `user`, ...) are accepted and dropped; fields that
would let a client reach past the gateway (`chat_template`, `kv_transfer_params`, `priority`, ...) are unknown fields.
"""

from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deployments.errors import InvalidRequest

_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)
_LOOSE = ConfigDict(extra="allow", strict=True, frozen=True)

# Larger integers than an engine's own types would fail there, after admission, as if the engine were at fault.
Int32 = Annotated[int, Field(ge=0, le=2**31 - 1)]
Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
T = TypeVar("T")
Listed: TypeAlias = Annotated[list[T], Field(fail_fast=True)]
"""A list that is read up to its first mistake: a body may hold millions of them."""

ToolName = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_\-.]+$")]


class ContentPart(BaseModel):
    """One part of a message's content; only text reaches a text model."""

    model_config = _LOOSE
    type: str
    text: str | None = None


class FunctionCall(BaseModel):
    """Name and arguments of a replayed call."""

    model_config = _LOOSE
    name: str
    arguments: str


class ReplayedCall(BaseModel):
    """A tool call of an earlier assistant turn."""

    model_config = _LOOSE
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(BaseModel):
    """One message; unknown keys are tolerated because clients replay what servers once sent them."""

    model_config = _LOOSE
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Listed[ContentPart] | None = None
    tool_calls: Listed[ReplayedCall] | None = None
    tool_call_id: str | None = None


class FunctionTool(BaseModel):
    """A function on offer."""

    model_config = _LOOSE
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(BaseModel):
    """A tool on offer; only functions can be gated, hence only functions are taken."""

    model_config = _LOOSE
    type: str
    function: FunctionTool | None = None


class ChosenFunction(BaseModel):
    """`tool_choice` naming one function."""

    model_config = _STRICT

    class Name(BaseModel):
        """The function's name."""

        model_config = _STRICT
        name: ToolName

    type: Literal["function"]
    function: Name


class JsonSchemaFormat(BaseModel):
    """The schema of `response_format: json_schema`."""

    model_config = _STRICT
    name: str
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """`response_format`."""

    model_config = _STRICT
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class StreamOptions(BaseModel):
    """`stream_options`; `include_obfuscation` is accepted and changes nothing."""

    model_config = _STRICT
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Sampling(BaseModel):
    """What both dialects share. Ranges are OpenAI's and vLLM's."""

    model_config = _STRICT

    model: Annotated[str, Field(max_length=256)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=16)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: Int64 | None = None
    stop: str | Annotated[Listed[str], Field(max_length=16)] | None = None
    logit_bias: dict[str, float] | None = None
    # vLLM's sampling extensions that only shape this client's own tokens
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    min_tokens: Int32 | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    stop_token_ids: Listed[Int32] | None = None
    # accepted and dropped
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None


class ChatRequest(Sampling):
    """`POST /v1/chat/completions`."""

    messages: Annotated[Listed[ChatMessage], Field(min_length=1)]
    tools: Listed[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenFunction | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    verbosity: str | None = None
    modalities: Listed[Literal["text"]] | None = None


class CompletionRequest(Sampling):
    """`POST /v1/completions`. A prompt is text, token ids, or a list of either."""

    prompt: str | Listed[str] | Listed[Int32] | Listed[Listed[Int32]]
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    suffix: str | None = None
    best_of: Annotated[int, Field(ge=1, le=16)] | None = None


DROPPED = frozenset(
    {
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "verbosity",
        "modalities",
        "best_of",
        "model",
        "stream",
        "stream_options",
        "reasoning_effort",
    }
)
"""Fields that never reach the engine as the client sent them."""


_MOST_MISTAKES = 1000  # pydantic tells all of them or none, at about two kilobytes each


def invalid(error: ValidationError) -> InvalidRequest:
    """OpenAI's words for the first thing that pydantic found; never the offending value."""
    if error.error_count() > _MOST_MISTAKES:
        return InvalidRequest("The request body holds too many invalid or unknown fields.")
    found = error.errors(include_url=False, include_input=False, include_context=False)
    # A union reports one error per member: the deepest location is the member that nearly fitted.
    first = max(found, key=lambda e: (e["type"] == "extra_forbidden", len(e["loc"])))
    path = _path(first["loc"])
    if first["type"] == "extra_forbidden":
        return InvalidRequest(f"Unknown parameter: '{path}'.", path, "unsupported_parameter")
    if first["type"] == "missing":
        return InvalidRequest(f"Missing required parameter: '{path}'.", path, "missing_required_parameter")
    return InvalidRequest(f"Invalid value for '{path}': {_lower(first['msg'])}.", path, "invalid_value")


def _path(location: tuple[int | str, ...]) -> str:
    """`("messages", 0, "content")` -> `messages[0].content`, without pydantic's names for the members of a union."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.isidentifier() and part[:1].islower() and part not in ("str", "int", "float", "bool", "literal"):
            text += f".{part}" if text else part
    return text or "body"


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:].rstrip(".")

"""The request body of `/v1/messages` and `/v1/messages/count_tokens`, strictly typed; `read_request` is the way in.

As in `requests.py`: a wrong type or an unknown field of the body is refused with the field's name. Anthropic's clients
send new beta fields often, so the rule is by meaning: what changes nothing here is accepted and dropped (`metadata`,
`context_management`, `service_tier`, ...), what asks for something that would silently not happen (`mcp_servers`,
`container`, `compaction`, ...) is refused unless it is empty. Blocks, tools and the objects inside may carry more keys
than we read (`cache_control`, `citations`, `signature`), because clients replay what servers once sent them.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias, cast

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from deployments.errors import InvalidRequest
from deployments.ingress.dialects.requests import Listed, invalid
from deployments.ports import JsonValue

_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)
_LOOSE = ConfigDict(extra="allow", strict=True, frozen=True)

_PARTS: Final = frozenset({"text", "document", "search_result", "tool_reference"})
_BLOCKS: Final = _PARTS | {"thinking", "redacted_thinking", "tool_use", "tool_result"}

CallId = Annotated[str, Field(min_length=1, max_length=256)]
ClientToolName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[a-zA-Z0-9_\-.]+$")]


def _tagged(known: frozenset[str]) -> Callable[[Any], str]:
    """The tag of a block for a union: its type in capitals, which the path in an error message leaves out."""

    def tag(value: object) -> str:
        kind = cast(Mapping[str, object], value).get("type") if isinstance(value, dict) else None
        return kind.upper() if isinstance(kind, str) and kind in known else "OTHER"

    return tag


class TextBlock(BaseModel):
    """Text of any role."""

    model_config = _LOOSE
    type: Literal["text"]
    text: str


class OtherBlock(BaseModel):
    """A block of a type that is read nowhere; who meets it refuses it, or says that something was left out."""

    model_config = _LOOSE
    type: str


class DocumentSource(BaseModel):
    """Where a document is; only `text` and `content` hold it in words."""

    model_config = _LOOSE
    type: str
    data: str | None = None
    content: str | Listed[TextBlock] | None = None


class DocumentBlock(BaseModel):
    """A document, with what the client says about it."""

    model_config = _LOOSE
    type: Literal["document"]
    source: DocumentSource
    title: str | None = None
    context: str | None = None


class SearchResultBlock(BaseModel):
    """A passage that the client found somewhere."""

    model_config = _LOOSE
    type: Literal["search_result"]
    title: str
    source: str
    content: Listed[TextBlock]


class ToolReferenceBlock(BaseModel):
    """The name of a tool that a search for tools found; every tool is on offer here from the start."""

    model_config = _LOOSE
    type: Literal["tool_reference"]
    tool_name: str


Part: TypeAlias = Annotated[
    Annotated[TextBlock, Tag("TEXT")]
    | Annotated[DocumentBlock, Tag("DOCUMENT")]
    | Annotated[SearchResultBlock, Tag("SEARCH_RESULT")]
    | Annotated[ToolReferenceBlock, Tag("TOOL_REFERENCE")]
    | Annotated[OtherBlock, Tag("OTHER")],
    Discriminator(_tagged(_PARTS)),
]


class ThinkingBlock(BaseModel):
    """Replayed reasoning. Its signature is not looked at: it may be ours, or another server's."""

    model_config = _LOOSE
    type: Literal["thinking"]
    thinking: str


class RedactedBlock(BaseModel):
    """Reasoning that only Anthropic can read."""

    model_config = _LOOSE
    type: Literal["redacted_thinking"]


class ToolUseBlock(BaseModel):
    """A replayed call."""

    model_config = _LOOSE
    type: Literal["tool_use"]
    id: CallId
    name: Annotated[str, Field(min_length=1, max_length=256)]
    input: dict[str, Any]


class ToolResultBlock(BaseModel):
    """What a call gave."""

    model_config = _LOOSE
    type: Literal["tool_result"]
    tool_use_id: CallId
    content: str | Listed[Part] | None = None
    is_error: bool | None = None


Block: TypeAlias = Annotated[
    Annotated[TextBlock, Tag("TEXT")]
    | Annotated[DocumentBlock, Tag("DOCUMENT")]
    | Annotated[SearchResultBlock, Tag("SEARCH_RESULT")]
    | Annotated[ToolReferenceBlock, Tag("TOOL_REFERENCE")]
    | Annotated[ThinkingBlock, Tag("THINKING")]
    | Annotated[RedactedBlock, Tag("REDACTED_THINKING")]
    | Annotated[ToolUseBlock, Tag("TOOL_USE")]
    | Annotated[ToolResultBlock, Tag("TOOL_RESULT")]
    | Annotated[OtherBlock, Tag("OTHER")],
    Discriminator(_tagged(_BLOCKS)),
]


class Message(BaseModel):
    """One message. `system` between the others is a beta that Claude Code uses."""

    model_config = _LOOSE
    role: Literal["user", "assistant", "system"]
    content: str | Listed[Block]


class ClientTool(BaseModel):
    """A tool that the client runs."""

    model_config = _LOOSE
    type: Literal["custom"] | None = None
    name: ClientToolName
    description: str | None = None
    input_schema: dict[str, Any]


class TypedTool(BaseModel):
    """A tool whose meaning is known by its type: one that Anthropic runs, or one that its models were trained on."""

    model_config = _LOOSE
    type: str


def _tool_tag(value: object) -> str:
    kind = cast(Mapping[str, object], value).get("type") if isinstance(value, dict) else None
    return "CLIENT" if kind in (None, "custom") else "TYPED"


Tool: TypeAlias = Annotated[
    Annotated[ClientTool, Tag("CLIENT")] | Annotated[TypedTool, Tag("TYPED")], Discriminator(_tool_tag)
]


class ToolChoice(BaseModel):
    """`tool_choice`; `name` with type `tool`."""

    model_config = _LOOSE
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(BaseModel):
    """`thinking`; a budget is accepted and changes nothing, because the model knows efforts, not budgets."""

    model_config = _LOOSE
    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: int | None = None

    @property
    def shown(self) -> bool:
        """True when the client wants to see the model think."""
        return self.type != "disabled"


class OutputFormat(BaseModel):
    """The schema that the answer must have."""

    model_config = _LOOSE
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(BaseModel):
    """`output_config`."""

    model_config = _LOOSE
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class MessagesRequest(BaseModel):
    """`POST /v1/messages`; a question for the count of tokens is the same without what limits the answer."""

    model_config = _STRICT

    model: Annotated[str, Field(max_length=256)] | None = None
    messages: Annotated[Listed[Message], Field(min_length=1)]
    system: str | Listed[TextBlock] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    stream: bool | None = None
    stop_sequences: Annotated[Listed[Annotated[str, Field(min_length=1)]], Field(max_length=16)] | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    tools: Listed[Tool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    """The older place of `output_config.format`, which wins."""
    # accepted and dropped
    metadata: dict[str, Any] | None = None
    context_management: dict[str, Any] | None = None
    cache_control: dict[str, Any] | None = None
    diagnostics: dict[str, Any] | None = None
    service_tier: str | None = None
    speed: str | None = None
    betas: Listed[str] | None = None
    fallbacks: str | Listed[Any] | None = None
    fallback_credit_token: str | None = None
    # refused unless empty: see the top of the file
    mcp_servers: Listed[Any] | None = None
    container: str | dict[str, Any] | None = None
    compaction: dict[str, Any] | None = None
    thread: dict[str, Any] | None = None
    inference_geo: str | None = None


def read_request(body: Mapping[str, JsonValue]) -> MessagesRequest:
    """The request, or `InvalidRequest` naming the field."""
    try:
        request = MessagesRequest.model_validate(body)
    except ValidationError as error:
        raise invalid(error) from None
    promises = {
        "mcp_servers": request.mcp_servers,
        "container": request.container,
        "compaction": request.compaction,
        "thread": request.thread,
        "inference_geo": request.inference_geo,
    }
    for name, value in promises.items():
        if value:
            raise InvalidRequest(f"'{name}' is not supported here.", name, "unsupported_parameter")
    return request

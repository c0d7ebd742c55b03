"""The tools of the Responses API as the functions of a chat request, and the way back.

Engines know functions only. A function of a namespace becomes `namespace__name`; a custom tool becomes a function with
one string, `input`. `Tools` remembers for one request which is which, so that calls go out, and come back with the
next turn, in the words of the client.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from deployments.errors import InvalidRequest
from deployments.ingress.dialects.responses_requests import (
    CustomTool,
    FunctionTool,
    NamedTool,
    NamespaceTool,
    Offered,
    ResponsesRequest,
    ToolChoice,
)
from deployments.ports import JsonValue

_NAME_CHARS = 64
_HASH_CHARS = 8
_INPUT = "input"


@dataclass(frozen=True, slots=True)
class Named:
    """A tool as the client knows it."""

    name: str
    namespace: str | None = None
    custom: bool = False


@dataclass(frozen=True, slots=True)
class Tools:
    """What a request offers. `known` goes from the engine's names to the client's.

    `functions` and `choice` are the `tools` and the `tool_choice` of the chat request; `choice` is None when there is
    nothing to say. `dropped` names the types that were left out.
    """

    known: Mapping[str, Named]
    functions: tuple[dict[str, JsonValue], ...]
    choice: JsonValue
    dropped: tuple[str, ...]

    def engine_name(self, name: str, namespace: str | None) -> str:
        """The engine's name of a replayed call's tool, also of one that is no longer on offer."""
        if namespace is None:
            return name
        flat = _flat(namespace, name)
        # A clash gave it the long form: then that is what the engine knows it by in this request.
        marked = _marked(namespace, name)
        return marked if marked in self.known else flat


def read_tools(request: ResponsesRequest) -> Tools:
    """The tools and the choice of a request, or `InvalidRequest`."""
    offered = request.tools or ()
    flat = Counter(_flat(tool.name, inner.name) for tool, inner in _inner(offered))
    taken = {tool.name for tool in offered if isinstance(tool, FunctionTool | CustomTool)}
    known: dict[str, Named] = {}
    functions: list[dict[str, JsonValue]] = []

    def add(tool: FunctionTool | CustomTool, engine_name: str, namespace: str | None, path: str) -> None:
        if engine_name in known:
            raise InvalidRequest(f"Two tools have the name of '{path}'.", f"{path}.name")
        known[engine_name] = Named(tool.name, namespace, isinstance(tool, CustomTool))
        functions.append(_function(tool, engine_name, path))

    dropped: list[str] = []
    for index, tool in enumerate(offered):
        match tool:
            case FunctionTool() | CustomTool():
                add(tool, tool.name, None, f"tools[{index}]")
            case NamespaceTool():
                for number, inner in enumerate(tool.tools):
                    name = _flat(tool.name, inner.name)
                    if flat[name] > 1 or name in taken:
                        name = _marked(tool.name, inner.name)
                    add(inner, name, tool.name, f"tools[{index}].tools[{number}]")
            case _:
                dropped.append(tool.type)
    return _chosen(request.tool_choice, known, functions, tuple(dict.fromkeys(dropped)))


def custom_input(arguments: str) -> str:
    """The text for a custom tool; arguments of another shape are passed on whole, nothing is left out."""
    try:
        read = cast(JsonValue, json.loads(arguments))
    except ValueError:
        return arguments
    text = read.get(_INPUT) if isinstance(read, dict) and len(read) == 1 else None
    return text if isinstance(text, str) else arguments


def custom_arguments(text: str) -> str:
    """The arguments that `custom_input` reads as `text`; canonical, hence what was released in the turn before."""
    return json.dumps({_INPUT: text}, ensure_ascii=False, separators=(",", ":"))


def _inner(offered: Sequence[Offered]) -> list[tuple[NamespaceTool, FunctionTool | CustomTool]]:
    return [(tool, inner) for tool in offered if isinstance(tool, NamespaceTool) for inner in tool.tools]


def _flat(namespace: str, name: str) -> str:
    flat = f"{namespace}__{name}"
    return flat if len(flat) <= _NAME_CHARS else _marked(namespace, name)


def _marked(namespace: str, name: str) -> str:
    """A name of its own for every pair, the same in every turn."""
    digest = hashlib.sha256(f"{namespace}\0{name}".encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_CHARS]
    return f"{namespace}__{name}"[: _NAME_CHARS - _HASH_CHARS - 1] + f"_{digest}"


def _function(tool: FunctionTool | CustomTool, engine_name: str, path: str) -> dict[str, JsonValue]:
    function: dict[str, JsonValue] = {"name": engine_name}
    if isinstance(tool, CustomTool):
        function["description"] = _described(tool, path)
        function["parameters"] = {
            "type": "object",
            "properties": {_INPUT: {"type": "string", "description": "The whole input of the tool, as plain text."}},
            "required": [_INPUT],
            "additionalProperties": False,
        }
    else:
        rest = {"description": tool.description, "parameters": tool.parameters, "strict": tool.strict}
        function |= {key: value for key, value in rest.items() if value is not None}
    return {"type": "function", "function": function}


def _described(tool: CustomTool, path: str) -> str:
    text = tool.description or ""
    if tool.format is None or tool.format.type == "text":
        return text
    for name, value in (("syntax", tool.format.syntax), ("definition", tool.format.definition)):
        if value is None:
            param = f"{path}.format.{name}"
            raise InvalidRequest(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")
    what = "match this regular expression" if tool.format.syntax == "regex" else "follow this Lark grammar"
    lead = f"{text}\n\n" if text else ""
    return f"{lead}The value of '{_INPUT}' must {what}:\n{tool.format.definition}"


def _chosen(
    choice: str | ToolChoice | None,
    known: dict[str, Named],
    functions: list[dict[str, JsonValue]],
    dropped: tuple[str, ...],
) -> Tools:
    chosen: JsonValue = choice if isinstance(choice, str) else None
    if isinstance(choice, ToolChoice):
        if choice.type == "allowed_tools":
            if not choice.tools:
                raise InvalidRequest("'tool_choice.tools' must name a tool.", "tool_choice.tools")
            allowed = {
                name
                for index, tool in enumerate(choice.tools)
                for name in _names(tool, known, f"tool_choice.tools[{index}]")
            }
            # `known` stays whole: replayed calls may be of tools that are not allowed this time.
            functions = [each for name, each in zip(known, functions, strict=True) if name in allowed]
            chosen = choice.mode
        else:
            (name,) = _names(choice, known, "tool_choice", several=False)
            chosen = {"type": "function", "function": {"name": name}}
    if not functions:
        if chosen == "required":
            raise InvalidRequest("'tool_choice' is 'required', but there is no tool to call.", "tool_choice")
        chosen = None
    return Tools(known, tuple(functions), chosen, dropped)


def _names(tool: NamedTool | ToolChoice, known: Mapping[str, Named], path: str, several: bool = True) -> list[str]:
    """The engine's names of what a choice names: one tool, or all of a namespace."""
    if tool.type not in ("function", "custom") and not (several and tool.type == "namespace"):
        raise InvalidRequest(
            f"A tool of type '{tool.type[:64]}' cannot be chosen here.", f"{path}.type", "unsupported_tool"
        )
    if tool.name is None:
        raise InvalidRequest(
            f"Missing required parameter: '{path}.name'.", f"{path}.name", "missing_required_parameter"
        )
    if tool.type == "namespace":
        found = [name for name, each in known.items() if each.namespace == tool.name]
    else:
        wanted = Named(tool.name, tool.namespace, tool.type == "custom")
        found = [name for name, each in known.items() if each == wanted]
    if not found:
        raise InvalidRequest(f"'{path}.name' is not among the tools of this request.", f"{path}.name")
    return found

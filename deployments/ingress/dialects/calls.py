"""Calls of a reply: put together from their pieces, handed to the gate whole, and written in its words or not at all.

A call whose pieces contradict each other has a `defect`: nobody can say which call the model meant, so it is withheld,
never repaired. Pieces are kept per index until the choice ends, so calls whose pieces alternate are no contradiction.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from deployments.ingress.dialects.leaks import Span
from deployments.ports import Held, JsonValue, Released, ToolCall, Verdict, Withheld

EARLIER: Final = "An earlier call of this turn was not released."
LEAKED: Final = "It was written as text, in the markup of a tool call, instead of being called."
UNKNOWN: Final = "The model's server sent something that looks like a call, of a kind that is not known here."
_WHY: Final = {LEAKED: "leaked", UNKNOWN: "unknown_item"}
_ID_CHARS: Final = 256  # of a call: with a longer one no dialect takes it back


def mended(text: str) -> str:
    """The text with U+FFFD for every half of a surrogate pair: JSON can spell those, UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


@dataclass(slots=True)
class OpenCall:
    """A call whose pieces are still arriving."""

    call_id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list[str])
    defect: str | None = None


def collect(calls: dict[int, OpenCall], piece: Mapping[str, Any]) -> None:
    """Add a `tool_calls` delta (or a whole call) to the calls so far; contradictions are the call's defect."""
    call = calls.setdefault(int(piece.get("index", 0)), OpenCall())
    if piece.get("type") not in (None, "", "function"):
        call.defect = UNKNOWN
        call.arguments.append(json.dumps(piece))  # for the record: what it was
        return
    function = cast(dict[str, Any], piece.get("function") or {})
    call_id, name = piece.get("id"), function.get("name")
    if call_id:
        call.defect = "Its id changed within the call." if call.call_id not in ("", call_id) else call.defect
        call.call_id = str(call_id)
    if name:
        call.defect = "Its name changed within the call." if call.name not in ("", name) else call.defect
        call.name = str(name)
    arguments = function.get("arguments")
    if arguments is not None:
        if not isinstance(arguments, str):
            raise TypeError("arguments are not a string")
        call.arguments.append(arguments)


def closed(calls: Mapping[int, OpenCall], choice: int, recovered: bool) -> tuple[ToolCall, ...]:
    """The calls of a choice, complete and in order, each under an id that a client can send back."""
    done: list[ToolCall] = []
    taken: set[str] = set()
    for index, call in sorted(calls.items()):
        call_id = mended(call.call_id)
        if not call_id or len(call_id) > _ID_CHARS or call_id in taken:
            call_id = f"call_{choice}_{index}"
        while call_id in taken:
            call_id += "_"
        taken.add(call_id)
        done.append(
            ToolCall(
                call_id=call_id,
                choice=choice,
                index=index,
                name=mended(call.name),
                arguments=mended("".join(call.arguments)),
                recovered=recovered or call.defect is not None,
                defect=call.defect,
            )
        )
    return tuple(done)


def withheld(spans: Sequence[Span], items: Sequence[tuple[str, JsonValue]], choice: int) -> tuple[ToolCall, ...]:
    """What was taken out of a choice, as calls that have a defect: `spans` of its texts, and `items` that nobody knows.

    They go to the gate for the record. Their ids are ours and never reach a client as calls.
    """
    found = [(span.name, span.text, LEAKED) for span in spans]
    found += [(name, json.dumps(value), UNKNOWN) for name, value in items]
    return tuple(
        ToolCall(
            call_id=f"withheld_{choice}_{number}",
            choice=choice,
            index=number,
            name=mended(name),
            arguments=mended(text),
            recovered=True,
            defect=defect,
        )
        for number, (name, text, defect) in enumerate(found)
    )


def why(calls: Sequence[ToolCall]) -> list[str]:
    """Why calls stay that nobody judges for their words: the reasons of `values.ReplyFilter.withheld`."""
    return [_WHY.get(call.defect, "broken") for call in calls if call.defect is not None]


def lawful(calls: Sequence[ToolCall], verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts as far as a filter acts on them: nothing with a defect leaves, and nothing after a call that stays.

    The gate promises both; here a gate that is wrong releases nothing. `RuntimeError` when they are not of these calls.
    """
    if [verdict.call for verdict in verdicts] != list(calls):
        raise RuntimeError("resolve() without its Judge, or with the verdicts on other calls")
    kept: list[Verdict] = []
    stopped = False
    for verdict in verdicts:
        defect = verdict.call.defect
        if defect is not None and isinstance(verdict, Released | Held | Withheld):
            kept.append(Withheld(verdict.call, defect))
        elif stopped and isinstance(verdict, Released):
            kept.append(Withheld(verdict.call, EARLIER))
        else:
            kept.append(verdict)
        stopped = not isinstance(kept[-1], Released)
    return kept


def released_call(verdict: Released, index: int | None) -> dict[str, JsonValue]:
    """A released call in OpenAI's shape, with the canonical arguments; `index` only in streams."""
    shape: dict[str, JsonValue] = {} if index is None else {"index": index}
    return {
        **shape,
        "id": verdict.call.call_id,
        "type": "function",
        "function": {"name": verdict.call.name, "arguments": verdict.arguments},
    }

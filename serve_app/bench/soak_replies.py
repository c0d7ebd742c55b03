"""What a proper reply is: pure rules that every reply of a soak run is held against.

A reply may be complete or a clear refusal, never something in between: a client that cannot tell a finished answer
from a broken one acts on half of it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

_RETRYABLE = frozenset({429, 503})
_DONE = "[DONE]"
_MAX_LINE = 1 << 20


class Ending(StrEnum):
    """How a request ended. The last four fail a soak run."""

    COMPLETE = "complete"
    ERROR_EVENT = "error event"
    REFUSED = "refused"
    HUNG_UP = "hung up by us"
    CUT = "cut"
    MALFORMED = "malformed"
    CONNECTION = "connection"
    TIMEOUT = "timeout"


FAULTS = frozenset({Ending.CUT, Ending.MALFORMED, Ending.CONNECTION, Ending.TIMEOUT})


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply. `detail` says what is wrong in words of ours: never a prompt, a key or text of the reply."""

    ending: Ending
    status: int = 0
    detail: str = ""
    events: int = 0
    output_tokens: int = 0
    retry_after_s: float = 0.0

    @property
    def fault(self) -> bool:
        """True when the run fails because of it."""
        return self.ending in FAULTS


class StreamWatch:
    """Reads a chat stream in whatever pieces it arrives in, and says at its end whether it was whole."""

    def __init__(self) -> None:
        self.events = 0
        self._tail = b""
        self._done = False
        self._error = False
        self._finished = False
        self._output_tokens = 0
        self._fault = ""

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body."""
        *lines, self._tail = (self._tail + data).split(b"\n")
        if len(self._tail) > _MAX_LINE:
            self._blame("a line of more than 1 MiB")
            self._tail = b""
        for line in lines:
            self._line(line.rstrip(b"\r"))

    def end(self) -> Reply:
        """The verdict, once the body has ended by itself."""
        if self._tail.strip():
            self._blame("the last line is not complete")
        if self._error and self._done:
            self._blame("an error event and [DONE]")
        if self._done and not self._error and not self._finished:
            self._blame("[DONE] without a finish_reason")
        if self._fault:
            ending = Ending.MALFORMED
        elif self._error:
            ending = Ending.ERROR_EVENT
        else:
            ending = Ending.COMPLETE if self._done else Ending.CUT
        detail = self._fault or ("no [DONE] and no error event" if ending is Ending.CUT else "")
        return Reply(ending, 200, detail, self.events, self._output_tokens)

    def _line(self, line: bytes) -> None:
        if not line or line.startswith(b":"):
            return
        if not line.startswith(b"data:"):
            self._blame("a line that is neither data nor a comment")
            return
        if self._done or self._error:
            self._blame("something after the last event")
        text = line[5:].strip().decode("utf-8", "replace")
        self.events += 1
        if text == _DONE:
            self._done = True
            return
        try:
            event: object = json.loads(text)
        except ValueError:
            self._blame("an event that is not JSON")
            return
        if not isinstance(event, dict):
            self._blame("an event that is not an object")
            return
        self._event(cast(dict[str, Any], event))

    def _event(self, event: Mapping[str, Any]) -> None:
        if "error" in event:
            self._error = True
            fault = error_fault(event)
            if fault:
                self._blame(fault)
            return
        choices: object = event.get("choices")
        if not isinstance(choices, list):
            self._blame("a chunk without choices")
            return
        for choice in cast(list[Any], choices):
            if isinstance(choice, dict) and cast(dict[str, Any], choice).get("finish_reason"):
                self._finished = True
        usage: object = event.get("usage")
        if isinstance(usage, dict):
            self._output_tokens = int(cast(dict[str, Any], usage).get("completion_tokens") or 0)

    def _blame(self, what: str) -> None:
        self._fault = self._fault or what


def judge_whole(body: bytes) -> Reply:
    """The verdict on a reply with status 200 that was not streamed: one complete chat completion."""
    try:
        value: object = json.loads(body)
    except ValueError:
        return Reply(Ending.CUT, 200, "a body that is not JSON")
    if not isinstance(value, dict):
        return Reply(Ending.MALFORMED, 200, "a body that is not an object")
    completion = cast(dict[str, Any], value)
    try:
        (choice,) = completion["choices"]
        whole = completion["object"] == "chat.completion" and choice["message"]["role"] == "assistant"
        whole = whole and bool(choice["finish_reason"])
        tokens = int(completion["usage"]["completion_tokens"])
    except (KeyError, TypeError, ValueError):
        return Reply(Ending.MALFORMED, 200, "a chat completion without its parts")
    if not whole:
        return Reply(Ending.MALFORMED, 200, "a chat completion that is not finished")
    return Reply(Ending.COMPLETE, 200, output_tokens=tokens)


def judge_refusal(status: int, headers: Mapping[str, str], body: bytes) -> Reply:
    """The verdict on any other status: OpenAI's error object, and `retry-after` where trying again helps.

    `headers` have lower-case names.
    """
    try:
        value: object = json.loads(body)
    except ValueError:
        return Reply(Ending.MALFORMED, status, f"status {status} with a body that is not JSON")
    fault = error_fault(cast(Mapping[str, Any], value)) if isinstance(value, dict) else "no error object"
    if fault:
        return Reply(Ending.MALFORMED, status, f"status {status}: {fault}")
    retry_after_s = _seconds(headers.get("retry-after", ""))
    if status in _RETRYABLE and retry_after_s is None:
        return Reply(Ending.MALFORMED, status, f"status {status} without a retry-after in seconds")
    return Reply(Ending.REFUSED, status, str(cast(Any, value)["error"]["code"])[:64], retry_after_s=retry_after_s or 0)


def error_fault(value: Mapping[str, Any]) -> str:
    """What is wrong with OpenAI's error shape; empty when nothing is."""
    error: object = value.get("error")
    if not isinstance(error, dict):
        return "no error object"
    fields = cast(dict[str, Any], error)
    for name in ("message", "type", "code"):
        if not isinstance(fields.get(name), str) or not fields[name]:
            return f"an error without '{name}'"
    return "" if "param" in fields else "an error without 'param'"


def _seconds(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value <= 3600 else None

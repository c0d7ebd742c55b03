"""Cases of an evaluation suite: what is asked, and what a program can decide about the answer."""

import json
from dataclasses import dataclass
from typing import Annotated, Any

import regex
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

_MOST_CHARS = 65_536

Name = Annotated[str, StringConstraints(pattern=r"\A[a-z0-9][a-z0-9_.-]{0,63}\z")]
Pattern = Annotated[str, StringConstraints(min_length=1, max_length=1_024)]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as a client would see it: its text, why it ended, and its calls as (name, arguments as JSON text)."""

    text: str
    finish: str = "stop"
    calls: tuple[tuple[str, str], ...] = ()


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class CallCheck(_Model):
    """A call that must be made: `arguments` are equal to these, those of `matches` are text with a match in it."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    arguments: dict[str, Any] = Field(default_factory=dict[str, Any])
    matches: dict[str, Pattern] = Field(default_factory=dict[str, str])

    @field_validator("matches")
    @classmethod
    def _compile(cls, value: dict[str, str]) -> dict[str, str]:
        for each in value.values():
            _compiles(each)
        return value


class Checks(_Model):
    """What an answer must be like, all of it.

    `expects` is found in the text, `avoids` is not. `json_schema`: the text is JSON, or one fenced block of it, that
    obeys the schema. `python`: the fenced blocks of Python, or the text, parse and define these names. `tool_call`:
    exactly one call, and this one. Without that no call may be made. `may_be_cut`: it may have run into `max_tokens`.
    """

    expects: Pattern | None = None
    avoids: Pattern | None = None
    json_schema: dict[str, Any] | None = None
    python: Annotated[tuple[str, ...], Field(strict=False, max_length=16)] | None = None
    tool_call: CallCheck | None = None
    may_be_cut: bool = False

    @field_validator("expects", "avoids")
    @classmethod
    def _compile(cls, value: str | None) -> str | None:
        if value is not None:
            _compiles(value)
        return value

    @model_validator(mode="after")
    def _check_something(self) -> "Checks":
        if (self.expects, self.json_schema, self.python, self.tool_call) == (None, None, None, None):
            raise ValueError("a case has one of expects, json_schema, python and tool_call at least")
        return self


class ExampleCall(_Model):
    """A call in an example of a good answer."""

    name: str
    arguments: dict[str, Any]


class Case(_Model):
    """One case. `prompt` is short for one user message in `messages`; `tools` are those of a chat completion.

    `example` is a good answer: a case that its own example fails is refused when the suite is read.
    """

    name: Name
    family: Name
    prompt: Annotated[str, Field(min_length=1, max_length=_MOST_CHARS)] | None = None
    messages: Annotated[tuple[dict[str, Any], ...], Field(strict=False, min_length=1, max_length=64)] | None = None
    tools: Annotated[tuple[dict[str, Any], ...], Field(strict=False, max_length=32)] = ()
    max_tokens: Annotated[int, Field(ge=1, le=8_192)] = 2_048
    checks: Checks
    example: str | ExampleCall

    @model_validator(mode="after")
    def _ask_something(self) -> "Case":
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("a case has either a prompt or messages")
        if self.checks.tool_call is not None and not self.tools:
            raise ValueError("a case that expects a tool call offers tools")
        return self

    @property
    def conversation(self) -> list[dict[str, Any]]:
        """The messages of a chat completion."""
        return [{"role": "user", "content": self.prompt}] if self.messages is None else [*self.messages]

    @property
    def good(self) -> Reply:
        """The example as an answer."""
        match self.example:
            case str():
                return Reply(self.example)
            case ExampleCall():
                return Reply("", "tool_calls", ((self.example.name, json.dumps(self.example.arguments)),))


def _compiles(pattern: str) -> None:
    try:
        regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"no regular expression: {error}") from None

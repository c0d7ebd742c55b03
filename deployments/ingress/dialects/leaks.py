"""Calls that a model wrote as text: taken out of it, because some clients run what they find there.

When an engine's tool parser fails, the call arrives as ordinary text or reasoning, in the markup of the model's family.
`LeakScanner` passes text on as it comes and holds back only what may be the beginning of such a call. What must come
together before a span is taken out:

1. an opening of `_FORMS`, outside of a code fence and of inline code: whoever explains a format quotes it;
2. at the place where the form has it, the name of a tool that the request offers: no client runs any other.

The span ends where its form says; one that never ends goes to the end of the text. Nothing is ever turned into a call
here: the engine's harmony parser recovers what can be recovered, and it has the tokens.

A candidate is at most `MAX_HEAD` characters long before it is text after all, or `MAX_JSON` when it is an object in a
tag that is made for calls; a longer one of these is a call, whatever its name.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import cast

MAX_HEAD = 512
MAX_JSON = 16_384

_LINE_START = " \t>-*+.)0123456789"  # what may stand before a fence in its line: quotes and lists
_SIGN = re.compile(r"[<\[=\n`~]")
_WORD = r"[\w.\-]{1,128}"
_NAMES = re.compile(rf'"(?:name|tool_name|tool|function|recipient_name)"\s*:\s*"({_WORD})"')
_TO = re.compile(rf"to=\s*({_WORD})")
_HEADER_END = re.compile(r"<\|message\|>|[{\n]")
_BARE = re.compile(rf"({_WORD})(?:\s|<\|\w+\|>|json|code|commentary|analysis)*(?={{)")
_BARE_SO_FAR = re.compile(r"[\w.\-]{0,128}[\s<|>a-z_]{0,64}")
_TAGGED = re.compile(rf"\s*[\"']?({_WORD})[\"']?[^<>\n]*>")
_TAGGED_SO_FAR = re.compile(r"\s*[\"']?[\w.\-]{0,128}[\"']?[^<>\n]*")
_PLACED = re.compile(rf"\s*({_WORD})\s*(?:\[\w+\]\S*?)?(?=[\n<{{(])")
_PLACED_SO_FAR = re.compile(r"\s*[\w.\-]{0,128}\s*(?:\[[^\s{(<]{0,64})?")
_HEADED_END = re.compile(r"[{\n]")
_HEADED = re.compile(_WORD)
_STRUCTURE = re.compile(r'["\\{}\[\]]')


class _Open(Enum):
    """Why a head names no tool: not yet, or not at all."""

    MORE = auto()
    NO = auto()


@dataclass(frozen=True, slots=True)
class _Named:
    """A head that names a tool (empty: it is a call, and the name was not found in time), and its length."""

    name: str
    length: int


_Head = _Named | _Open


@dataclass(frozen=True, slots=True)
class Span:
    """A call that was taken out of a text: the tool's name, or nothing, and all that was written."""

    name: str
    text: str


class _Names:
    """The tools that a request offers."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = {name.casefold() for name in names}

    def named(self, words: list[str], length: int) -> _Head:
        """The first of the words that is a tool's name, in a head of this length."""
        for word in words:
            for name in (word, word.removeprefix("functions."), word.removesuffix(".call")):
                if name.casefold() in self._names:
                    return _Named(name, length)
        return _Open.NO


@dataclass(frozen=True, slots=True)
class _Form:
    """How a family writes calls: `opening` to begin with, what `head` finds after it, and where the span ends.

    `closings` end it and belong to it, `befores` end it and do not; without either it ends with its JSON value.
    """

    opening: str
    head: Callable[[_Names, str], _Head]
    closings: tuple[str, ...] = ()
    befores: tuple[str, ...] = ()


class _Value:
    """Finds the end of the first JSON object (or list, unless `objects`) in a text that arrives in pieces."""

    def __init__(self, first: str) -> None:
        self._first = first
        self._depth = 0
        self._in_string = False
        self._escaped = -1

    def feed(self, text: str) -> int | None:
        """The place behind its last bracket, counted in `text`."""
        for found in _STRUCTURE.finditer(text):
            at, sign = found.start(), found.group()
            if self._depth == 0:
                self._depth = sign in self._first
            elif at == self._escaped:
                self._escaped = -1
            elif self._in_string:
                if sign == "\\":
                    self._escaped = at + 1
                elif sign == '"':
                    self._in_string = False
            elif sign == '"':
                self._in_string = True
            elif sign in "{[":
                self._depth += 1
            elif sign in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return found.end()
        self._escaped = self._escaped - len(text) if self._escaped >= len(text) else -1
        return None


class _Code:
    """Whether a place in a Markdown text is in a code fence or in inline code."""

    def __init__(self) -> None:
        self._fence = ""
        self._inline = 0
        self._run = ""
        self._line_start = True

    def quoted(self) -> bool:
        """True when what follows now is code."""
        self._settle()
        return bool(self._fence or self._inline)

    def text(self, piece: str) -> None:
        """Text without a line break, a backtick or a tilde."""
        if piece:
            self._settle()
            self._line_start = self._line_start and not piece.strip(_LINE_START)

    def line(self) -> None:
        """A line break; inline code does not go beyond one."""
        self._settle()
        self._line_start, self._inline = True, 0

    def tick(self, sign: str) -> None:
        """A backtick or a tilde."""
        if not self._run.endswith(sign):
            self._settle()
        self._run += sign

    def _settle(self) -> None:
        """The run of signs is over: what was it?"""
        run, self._run = self._run, ""
        if not run:
            return
        if self._fence:
            if self._line_start and run.startswith(self._fence):
                self._fence = ""
        elif len(run) >= 3 and self._line_start:
            self._fence = run
        elif run[0] == "`":
            self._inline = 0 if self._inline == len(run) else self._inline or len(run)
        self._line_start = False


class LeakScanner:
    """Takes calls out of one text of a reply, in which `names` can be called."""

    def __init__(self, names: frozenset[str]) -> None:
        self.spans: list[Span] = []
        """The calls that were taken out, in order, once they have ended."""
        self._names = _Names(names)
        self._code = _Code()
        self._held = ""  # begins with an opening or a part of one; inside a span: what is not searched yet
        self._patience = 0  # characters that must be held before a candidate is looked at again
        self._form: _Form | None = None  # of the span that is open
        self._name = ""
        self._span: list[str] = []
        self._value = _Value("{")
        self._after = False  # a span has ended, and what follows may belong to it

    @property
    def idle(self) -> bool:
        """True when nothing is held back, so that text may pass by `skim`."""
        return not (self._held or self._form or self._after)

    @property
    def taken(self) -> bool:
        """True when a call was found."""
        return bool(self.spans or self._form)

    def skim(self, piece: str) -> None:
        r"""Text with none of ``< [ = ` ~`` and no line break in it has passed, while the scanner was idle."""
        self._code.text(piece)

    def feed(self, piece: str) -> str:
        """The text that may go out now that `piece` has come."""
        return "".join(self._read(piece, ended=False))

    def end(self) -> str:
        """The text is over: what was held back and is text after all."""
        text = "".join(self._read("", ended=True))
        if self._form is not None:
            self._close(self._held)
            self._held = ""
        return text

    def _read(self, piece: str, ended: bool) -> Iterator[str]:
        self._held += piece
        going = True
        while going and self._held:
            if self._form is not None:
                going = self._inside(self._form)
            elif self._after:
                going = self._behind(ended)
            else:
                text, going = self._outside(ended)
                yield text

    # --- in the text ---------------------------------------------------------------------------------------------

    def _outside(self, ended: bool) -> tuple[str, bool]:
        """What passes of the held text, and whether there is something to do with the rest."""
        held, begun = self._held, 0
        if len(held) < self._patience and not ended:
            return "", False
        self._patience = 0
        for found in _SIGN.finditer(held):
            at, sign = found.start(), found.group()
            self._code.text(held[begun:at])
            begun = at
            if sign == "\n":
                self._code.line()
                begun = at + 1
            elif sign in "`~":
                self._code.tick(sign)
                begun = at + 1
            elif not self._code.quoted():
                waits = self._opens(held, at) and not ended
                if self._form is not None:
                    return held[:at], True
                if waits:
                    self._held = held[at:]
                    # A long one is not read anew with every token.
                    self._patience = len(self._held) * 5 // 4 if len(self._held) > 2 * MAX_HEAD else 0
                    return held[:at], False
        self._code.text(held[begun:])
        self._held = ""
        return held, False

    def _opens(self, held: str, at: int) -> bool:
        """Open a span at a place where a call begins; else True when it may become one."""
        may = False
        for form in _FORMS[held[at]]:
            if held.startswith(form.opening, at):
                start = at + len(form.opening)
                head = form.head(self._names, held[start:])
                if isinstance(head, _Named):
                    self._begin(form, head.name)
                    self._span.append(held[at : start + head.length])
                    self._held = held[start + head.length :]
                    return False
                may |= head is _Open.MORE
            else:
                may |= form.opening.startswith(held[at:])
        return may

    # --- in a span -----------------------------------------------------------------------------------------------

    def _begin(self, form: _Form, name: str) -> None:
        self._form, self._name, self._span = form, name, []
        self._value = _Value("{[" if form.head is _json else "{")

    def _inside(self, form: _Form) -> bool:
        """Move what belongs to the span out of the held text; True when the span has ended."""
        held = self._held
        if not form.closings:
            end = self._value.feed(held)
            if end is not None:
                self._finish(end)
                return True
            self._span.append(held)
            self._held = ""
            return False
        ends = [at + len(sign) for sign in form.closings if (at := held.find(sign)) >= 0]
        ends += [at for sign in form.befores if (at := held.find(sign)) >= 0]
        if ends:
            self._finish(min(ends))
            return True
        kept = max(0, len(held) - max(map(len, (*form.closings, *form.befores))) + 1)  # the rest may begin a closing
        self._span.append(held[:kept])
        self._held = held[kept:]
        return False

    def _finish(self, end: int) -> None:
        held = self._held
        self._close(held[:end])
        self._held, self._after = held[end:], True

    def _close(self, last: str) -> None:
        self.spans.append(Span(self._name, "".join((*self._span, last))))
        self._form, self._span = None, []

    def _behind(self, ended: bool) -> bool:
        """What follows a span at once: a closing tag, another object of it, or text. False: more is needed."""
        rest = self._held.lstrip()
        tail = next((tag for tag in _TAILS if rest.startswith(tag)), None)
        if tail is not None:
            self._held = rest[len(tail) :]
        elif not ended and any(tag.startswith(rest) for tag in _TAILS):  # nothing but white space may be anything
            return False
        else:
            self._after = False
            if rest.startswith("{"):
                last = self.spans.pop()
                self._begin(_ANOTHER, last.name)
                self._span.append(last.text)
        return True


# --- what the forms look for -----------------------------------------------------------------------------------------


def _harmony(names: _Names, text: str) -> _Head:
    """A header of the harmony format, up to its message: the recipient is behind `to=`."""
    end = _HEADER_END.search(text)
    if end is None:
        return _Open.MORE if len(text) <= MAX_HEAD else _Open.NO
    return names.named(_TO.findall(text[: end.start()]), end.start())


def _bare(names: _Names, text: str) -> _Head:
    """The same without its control tokens: `to=functions.shell json{`."""
    found = _BARE.match(text)
    if found is not None:
        return names.named([found.group(1)], found.end())
    return _Open.MORE if _BARE_SO_FAR.fullmatch(text) else _Open.NO


def _tagged(names: _Names, text: str) -> _Head:
    """The name inside the tag: `<function=shell>`, `<invoke name="shell">`."""
    found = _TAGGED.match(text)
    if found is not None:
        return names.named([found.group(1)], found.end())
    return _Open.MORE if len(text) <= MAX_HEAD and _TAGGED_SO_FAR.fullmatch(text) else _Open.NO


def _placed(names: _Names, text: str) -> _Head:
    r"""The name right behind the tag: `<tool_call>shell\n`, `[TOOL_CALLS]shell[ARGS]{`."""
    found = _PLACED.match(text)
    if found is not None:
        return names.named([found.group(1)], found.end())
    return _Open.MORE if len(text) <= MAX_HEAD and _PLACED_SO_FAR.fullmatch(text) else _Open.NO


def _headed(names: _Names, text: str) -> _Head:
    """The name somewhere between a control token and the arguments: `functions.shell:0<|tool_call_argument_begin|>`."""
    end = _HEADED_END.search(text)
    if end is None:
        return _Open.MORE if len(text) <= MAX_HEAD else _Open.NO
    return names.named(_HEADED.findall(text[: end.start()]), end.start())


def _json(names: _Names, text: str) -> _Head:
    """An object, or a list of them, in which a tool is named."""
    value = text.lstrip()
    if not value:
        return _Open.MORE if len(text) <= MAX_HEAD else _Open.NO
    if value[0] not in "{[":
        return _Open.NO
    end = _Value("{[").feed(value)
    found = names.named(_NAMES.findall(value if end is None else value[:end]), 0)
    if isinstance(found, _Named):
        return found
    if end is None:
        return _Open.MORE if len(text) <= MAX_JSON else _Named("", 0)
    try:
        return names.named(list(_words(json.loads(value[:end]))), 0)
    except (ValueError, RecursionError):
        return _Named("", 0)  # brackets that close and are no JSON: nobody can say what a client makes of them


def _words(value: object) -> Iterator[str]:
    """Every text that a JSON value holds, however it is spelled."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in cast("dict[str, object]", value).values():
            yield from _words(each)
    elif isinstance(value, list):
        for each in cast("list[object]", value):
            yield from _words(each)


_HARMONY = (("<|call|>", "<|end|>", "<|return|>"), ("<|start|>", "<|channel|>"))
_ANOTHER = _Form("", _json)
_ALL_FORMS = (
    _Form("<|start|>", _harmony, *_HARMONY),
    _Form("<|channel|>", _harmony, *_HARMONY),
    _Form("=functions.", _bare),
    _Form("= functions.", _bare),
    *(
        _Form(opening, _json)
        for opening in (
            "<tool_call>", "<tool_calls>", "<function_call>", "<function_calls>", "<|tool_call|>", "<|tool_calls|>",
            "<|python_tag|>", "<|START_ACTION|>", "[TOOL_CALLS]",
        )
    ),
    _Form("<tool_call>", _placed, ("</tool_call>",)),
    _Form("<|python_tag|>", _placed, ("<|eom_id|>", "<|eot_id|>")),
    _Form("[TOOL_CALLS]", _placed),
    _Form("<function=", _tagged, ("</function>",)),
    *(_Form(f"<{space}invoke name=", _tagged, (f"</{space}invoke>",)) for space in ("", "antml:", "minimax:")),
    _Form("<|tool_call_begin|>", _headed, ("<|tool_call_end|>",)),
    _Form("<｜tool▁call▁begin｜>", _headed, ("<｜tool▁call▁end｜>",)),
)  # fmt: skip
_FORMS = {sign: tuple(form for form in _ALL_FORMS if form.opening.startswith(sign)) for sign in "<[="}
_TAILS = (
    "<|call|>", "</tool_call>", "</tool_calls>", "</function_call>", "</function_calls>", "<|/tool_call|>",
    "<|END_ACTION|>", "<|tool_calls_section_end|>", "<｜tool▁calls▁end｜>",
)  # fmt: skip

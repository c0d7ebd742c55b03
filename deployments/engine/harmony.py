"""A harmony parser that repairs malformed model output instead of raising, and says what it guessed.

vLLM feeds every generated token of a gpt-oss model to openai_harmony's parser, which raises on output that models do
produce: a reply becomes a 500, a stream is cut. This one accepts every token sequence. `adapter.py` puts it in place.

Rules, in the order of their weight:

1. A tool call is made only from a header that ends in `<|message|>` and names its recipient with `to=`. Text is never
   turned into a call.
2. Whatever deviates from the format leaves a note. Notes travel as `ports.Repaired`, ahead of the bytes they concern,
   and a call from a reply that carries notes is not trusted by the gate.
3. Arguments are never changed.
4. At most one message is finished per token: vLLM polls one per step.

One rule corrects openai_harmony 0.0.8 without a note, as nothing is guessed: a bare word after the channel
(`<|channel|>final json<|message|>`, which vLLM's own grammars produce for structured output) is a content type. The
original reads it as a recipient, and the answer becomes a call of a tool named `json`.
"""

import codecs
import re
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Generic, Protocol, TypeVar

M = TypeVar("M")

REPAIRS: ContextVar[list[str]] = ContextVar("gatehouse_harmony_repairs")
"""Notes of the current request; the bridge sets a list before it starts the app."""

_MOST_NOTES = 32  # per request: garbage output must not grow a list without bound
_ASSISTANT = "assistant"
_CHANNELS = ("analysis", "commentary", "final")
_CONTENT_TYPES = frozenset({"json", "code"})
_NAME = re.compile(r"[\w.\-]{1,128}", re.ASCII)
_RECIPIENT = re.compile(r"(?:^|(?<=\s))to=(\S*)")
_CHANNEL = re.compile(r"analysis|commentary|final")
_CHANNEL_FIRST = re.compile(r"\s*(analysis|commentary|final)(?!\w)")
_ROLE = re.compile(r"\s*assistant(?:\s*(analysis|commentary|final))?(?!\w)")
_CONTENT_TYPE_FIRST = re.compile(r"\s*(json|code)(?!\w)")
_SPELLED_CHANNEL, _SPELLED_CONSTRAIN, _SPELLED_MESSAGE = "<|channel|>", "<|constrain|>", "<|message|>"
_BARE_HEADERS = tuple(f"{role}{channel}" for role in (_ASSISTANT, "") for channel in _CHANNELS)


class Control(IntEnum):
    """Control tokens of the o200k_harmony vocabulary that a completion may hold."""

    END_OF_TEXT = 199999
    RETURN = 200002
    CONSTRAIN = 200003
    CHANNEL = 200005
    START = 200006
    END = 200007
    MESSAGE = 200008
    CALL = 200012


_FIRST_CONTROL = 199998  # all ids from here on are control or reserved tokens, never text
_STOPS = frozenset({Control.END_OF_TEXT, Control.RETURN, Control.END, Control.CALL})
_OPENERS = frozenset({Control.START, Control.CHANNEL})


class Vocabulary(Protocol):
    """What the parser needs of an encoding."""

    def decode(self, tokens: Sequence[int], errors: str = "replace") -> str:
        """Text of `tokens`; `errors` is how invalid UTF-8 is treated, as in `bytes.decode`."""
        ...


@dataclass(frozen=True, slots=True)
class Finished:
    """A complete message. `channel` is None when it must not reach a client (it is not the assistant's)."""

    role: str
    channel: str | None
    recipient: str | None
    content_type: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Header:
    """What stands between `<|start|>` and `<|message|>`; `notes` says what was not as it should be."""

    role: str
    channel: str | None
    recipient: str | None
    content_type: str | None
    notes: tuple[str, ...] = ()


class _Where(Enum):
    HEADER = "header"
    CONTENT = "content"
    BETWEEN = "between"


def read_header(role_part: str, channel_part: str | None, constrain_part: str | None) -> Header:
    """The header whose parts these are: before `<|channel|>`, between it and `<|constrain|>`, and after that.

    Never fails; a tool is named only where `to=` names it.
    """
    notes: list[str] = []
    named = _RECIPIENT.findall(f"{role_part} {channel_part or ''}")
    role_text = _RECIPIENT.sub("", role_part).strip()
    channel_text = _RECIPIENT.sub("", channel_part or "")

    role = _ROLE.match(role_text)
    if role_text and role is None:
        return Header(role_text, None, None, None, ("a message that is not the assistant's was dropped",))
    if role is not None and (role.group(1) or role_text[role.end() :].strip()):
        notes.append("header rebuilt")

    channel = _CHANNEL_FIRST.match(channel_text)
    if channel is not None:
        name, words = channel.group(1), channel_text[channel.end() :].split()
    else:
        found = _CHANNEL.search(f"{role_text} {channel_text}")
        name, words = found.group() if found else ("commentary" if named else "final"), []
        notes.append("header without a channel" if channel_part is None else "channel guessed")

    recipient = None
    if named:
        valid = _NAME.match(named[0])
        recipient = valid.group() if valid else None
        if recipient != named[0] or len(named) > 1:
            notes.append("recipient guessed")

    content_type = next((word for word in words if word in _CONTENT_TYPES), None)
    if any(word not in _CONTENT_TYPES for word in words):
        notes.append("header rebuilt")
    if constrain_part is not None:
        content_type = next(iter(constrain_part.split()), content_type)
    return Header(_ASSISTANT, name, recipient, content_type, tuple(dict.fromkeys(notes)))


class RecoveringParser(Generic[M]):
    """What vLLM 0.29 uses of openai_harmony's StreamableParser for one assistant turn, without its exceptions.

    `make` builds a message in the caller's type; `notes` collects what was guessed.
    """

    def __init__(self, vocabulary: Vocabulary, make: Callable[[Finished], M], notes: list[str]) -> None:
        self._vocabulary = vocabulary
        self._make = make
        self._notes = notes
        self._where = _Where.HEADER  # the prompt ends in `<|start|>assistant`
        self._first = True  # until the first message has begun or ended
        self._tokens: list[int] = []  # of the header, or text seen between two messages
        self._header: Header | None = None
        self._text: list[str] = []
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._closing = False  # the message is over, but its last text must be seen by a step of its own
        self.messages: list[M] = []
        self.last_content_delta: str | None = None

    @property
    def current_channel(self) -> str | None:
        """Channel of the message whose text is arriving, else None."""
        return self._header.channel if self._header else None

    @property
    def current_recipient(self) -> str | None:
        """Tool that the arriving text is for, else None."""
        return self._header.recipient if self._header else None

    def process(self, token: int) -> "RecoveringParser[M]":
        """Take the next token. Afterwards `last_content_delta` is the text it added, or None."""
        self.last_content_delta = None
        finishes = self._closing
        if finishes:
            self._finish()
        match self._where:
            case _Where.HEADER:
                self._in_header(token)
            case _Where.CONTENT:
                self._in_content(token)
            case _Where.BETWEEN:
                self._between(token, finishes)
        return self

    def process_eos(self) -> "RecoveringParser[M]":
        """The output is over. A message that was cut short by a limit is finished as it stands."""
        self.last_content_delta = None
        if self._where is _Where.HEADER and not self._is_cut_header():
            self._close_headless()
        elif self._where is _Where.BETWEEN:
            self._drop_stray()
        if self._where is _Where.CONTENT:
            self._finish()
        return self

    def _note(self, note: str) -> None:
        if len(self._notes) < _MOST_NOTES:
            self._notes.append(note)

    def _decode(self, tokens: Sequence[int]) -> str:
        return self._vocabulary.decode([token for token in tokens if token < _FIRST_CONTROL])

    # --- header: between <|start|> and <|message|> ---

    def _in_header(self, token: int) -> None:
        if token == Control.MESSAGE:
            self._open(self._read_header())
        elif token in _STOPS:
            self._close_headless()
        elif token == Control.START:
            self._note("header started twice")
            self._tokens.clear()
            self._first = False  # what follows names a role, and not every role may be shown
        elif token in {Control.CHANNEL, Control.CONSTRAIN}:
            self._tokens.append(token)
        elif token < _FIRST_CONTROL:
            self._tokens.append(token)
            if self._first and self._tokens[0] < _FIRST_CONTROL:
                self._answer_without_header()
            if ">" in self._decode([token]):
                self._spelled_header()
        else:
            self._note("control token dropped")

    def _answer_without_header(self) -> None:
        """An output that begins with plain text: show it at once, unless it may still become a header."""
        text = self._decode(self._tokens).lstrip()
        headers = ("to=", _ASSISTANT, _SPELLED_CHANNEL)
        if not text.startswith(headers) and not any(header.startswith(text) for header in headers):
            self._text_outside()

    def _spelled_header(self) -> None:
        """A header whose control tokens are spelled out as text, as vLLM's text grammars allow.

        Good for an answer, and noted; a header that addresses a tool must be made of real control tokens.
        """
        if self._where is not _Where.HEADER:
            return
        role, channel, constrain = self._parts()
        text = role + ("" if channel is None else _SPELLED_CHANNEL + channel)
        text += "" if constrain is None else _SPELLED_CONSTRAIN + constrain
        if "to=" in text or not text.endswith(_SPELLED_MESSAGE):
            return
        head, typed, content_type = text.removesuffix(_SPELLED_MESSAGE).partition(_SPELLED_CONSTRAIN)
        role, channeled, channel = head.partition(_SPELLED_CHANNEL)
        self._note("control token spelled out")
        self._open(read_header(role, channel if channeled else None, content_type if typed else None))

    def _parts(self) -> tuple[str, str | None, str | None]:
        """Header text before `<|channel|>`, after the last one, and after `<|constrain|>`."""
        parts: dict[int | None, list[int]] = {None: []}
        marker: int | None = None
        for token in self._tokens:
            if token in {Control.CHANNEL, Control.CONSTRAIN}:
                marker = token
                parts[marker] = []
            else:
                parts[marker].append(token)
        channel, constrain = parts.get(Control.CHANNEL), parts.get(Control.CONSTRAIN)
        return (
            self._decode(parts[None]),
            None if channel is None else self._decode(channel),
            None if constrain is None else self._decode(constrain),
        )

    def _read_header(self) -> Header:
        header = read_header(*self._parts())
        if max(self._tokens.count(Control.CHANNEL), self._tokens.count(Control.CONSTRAIN)) > 1:
            self._note("header rebuilt")
        for note in header.notes:
            self._note(note)
        return header

    def _open(self, header: Header) -> None:
        self._header = header
        self._where = _Where.CONTENT
        self._first = False
        self._tokens.clear()

    def _close_headless(self) -> None:
        """A header that never reached `<|message|>`: what stands there becomes text, whoever it was addressed to."""
        role, channel, constrain = self._parts()
        if _RECIPIENT.search(f"{role} {channel or ''}"):
            name, text = "final", self._decode(self._tokens)
        else:
            known = _CHANNEL_FIRST.match(channel or "")
            name = known.group(1) if known else "final"
            text = _ROLE.sub("", role, count=1) + (channel or "")[known.end() if known else 0 :]
            text += _CONTENT_TYPE_FIRST.sub("", constrain or "", count=1)
        if not text.strip():
            self._note("message without <|message|> dropped")
            self._tokens.clear()
            self._first = False
            self._where = _Where.BETWEEN
            return
        self._note("message without <|message|> kept as text")
        self._open(Header(_ASSISTANT, name, None, None))
        self._say(text.strip())
        self._closing = True

    def _is_cut_header(self) -> bool:
        """True when the header so far may have been a good one that a limit on the length cut short."""
        role, channel, constrain = self._parts()
        if constrain is not None or _RECIPIENT.search(f"{role} {channel or ''}"):
            return True
        unread = _ROLE.sub("", role, count=1).strip() + "".join((channel or "").split())
        return any(name.startswith(unread) for name in (_ASSISTANT, *_CHANNELS))

    # --- content: between <|message|> and a terminator ---

    def _in_content(self, token: int) -> None:
        if token in _STOPS:
            self._finish()
        elif token in _OPENERS:
            self._note("message without terminator")
            self._finish()
            self._where = _Where.HEADER
            if token == Control.CHANNEL:
                self._tokens.append(token)
        elif token >= _FIRST_CONTROL:
            self._note("control token dropped")
        else:
            raw = self._vocabulary.decode([token], errors="surrogateescape").encode("utf-8", "surrogateescape")
            self._say(self._utf8.decode(raw))

    def _say(self, text: str) -> None:
        if text:
            self._text.append(text)
            self.last_content_delta = text

    def _finish(self) -> None:
        header = self._header
        if header is None:
            return
        self._text.append(self._utf8.decode(b"", final=True))
        self._utf8.reset()
        done = Finished(header.role, header.channel, header.recipient, header.content_type, "".join(self._text))
        self.messages.append(self._make(done))
        self._header = None
        self._text.clear()
        self._closing = False
        self._where = _Where.BETWEEN

    # --- between a terminator and the next <|start|> ---

    def _between(self, token: int, finishes: bool) -> None:
        if token == Control.START:
            self._drop_stray()
            self._where = _Where.HEADER
        elif token in _STOPS:
            self._drop_stray()
            self._note("duplicate terminator dropped")
        elif token == Control.CHANNEL:
            self._note("message without <|start|>")
            self._tokens.append(token)
            self._where = _Where.HEADER
        elif token == Control.MESSAGE:
            self._note("message without <|start|>")
            self._open(self._read_header())
        elif token >= _FIRST_CONTROL:
            self._note("control token dropped")
        else:
            self._tokens.append(token)
            if not finishes:  # vLLM drops the text of a step that also finishes a message
                self._text_outside()

    def _drop_stray(self) -> None:
        if self._decode(self._tokens).strip():
            self._note("text between messages dropped")
        self._tokens.clear()

    def _text_outside(self) -> None:
        """Text where a message should start. Wait while it may still be a header whose control tokens are missing."""
        text = self._decode(self._tokens).lstrip()
        squeezed = "".join(text.split())
        if any(header.startswith(squeezed) for header in _BARE_HEADERS):
            return
        bare = re.match(r"assistant\s*(analysis|commentary|final)|(analysis|commentary|final)(?![a-z])", text)
        channel = (bare.group(1) or bare.group(2)) if bare else "final"
        self._note(f"text outside a message put into {channel}")
        self._open(Header(_ASSISTANT, channel, None, None))
        self._say(text[bare.end() :] if bare else text)

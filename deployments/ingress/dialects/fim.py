"""Filling in the middle: the templates of models that were trained for it, and its emulation by a chat model.

gpt-oss has no tokens for it. Asked in words it does fill a gap, with what asking in words brings along: reasoning that
nobody wants to see, sometimes a Markdown fence around the answer. `MiddleWriter` writes such an answer as a completion,
and says in its `x_gatehouse` that it was emulated.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from deployments.ingress.dialects.sse import DONE, data_event
from deployments.ingress.dialects.stream import COMMENT, DATA_AFTER_S, dump
from deployments.ingress.dialects.values import End, Failure, Framing, Writer
from deployments.ports import JsonValue, Usage

FENCE = "```"


@dataclass(frozen=True, slots=True)
class FimTemplate:
    """How a model wants to be asked for the middle, in its own tokens written as text.

    The prompt is `{prefix}BEFORE{suffix}AFTER{middle}`, or `{suffix}AFTER{prefix}BEFORE{middle}` with `suffix_first`.
    `stop` are the tokens with which the model goes on to other files once the gap is filled.
    """

    prefix: str
    suffix: str
    middle: str
    stop: tuple[str, ...] = ()
    suffix_first: bool = False

    def render(self, before: str, after: str) -> str:
        """The prompt for the gap between two texts."""
        one, other = f"{self.prefix}{before}", f"{self.suffix}{after}"
        return (other + one if self.suffix_first else one + other) + self.middle

    def with_stops(self, stop: Sequence[str]) -> "FimTemplate":
        """The same template with more stop strings."""
        return replace(self, stop=(*self.stop, *stop))


PRESETS: Mapping[str, FimTemplate] = {
    "qwen2.5-coder": FimTemplate(
        "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>",
        ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>",
         "<|endoftext|>", "<|im_end|>"),
    ),
    "codellama": FimTemplate("<PRE> ", " <SUF>", " <MID>", ("<EOT>", "<PRE>", "<SUF>", "<MID>")),
    "starcoder2": FimTemplate(
        "<fim_prefix>", "<fim_suffix>", "<fim_middle>",
        ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<fim_pad>", "<repo_name>", "<file_sep>", "<|endoftext|>"),
    ),
    "deepseek-coder": FimTemplate(
        "<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>",
        ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", "<｜end▁of▁sentence｜>"),
    ),
    "codestral": FimTemplate("[PREFIX]", "[SUFFIX]", "", ("[PREFIX]", "[SUFFIX]"), suffix_first=True),
}  # fmt: skip
"""Templates by family, as those who trained the models document them.

- qwen2.5-coder: the repository's README, section on file-level completion; its stops are the tokens of its examples'
  `eos_token_id` list. It holds for Qwen3-Coder as well.
- codellama: `infilling_prompt_tokens` of `llama/generation.py` in Meta's repository. Its tokens begin with
  SentencePiece's blank (`▁<PRE>`): where a tokenizer does not read `<PRE>` as one token, spell them out by hand.
- starcoder2: section 5.1 of the paper (arXiv 2402.19173); `<file_sep>` ends the middle.
- deepseek-coder: the repository's README, section on code insertion.
- codestral: `encode_fim` of `mistral_common`, the suffix first. Needs a tokenizer that reads control tokens in text,
  which vLLM's `tokenizer_mode: mistral` does not.
"""


@dataclass(frozen=True, slots=True)
class FimAsk:
    """What a request wants filled: the texts `before` and `after` the gap.

    `emulated`: by a chat model. `stop` are then the client's stop strings, which are looked for in the answer alone:
    an engine looks for them in the reasoning, too, and would end there.
    """

    before: str
    after: str
    emulated: bool
    stop: tuple[str, ...] = ()


_SYSTEM = (
    "You complete text at a cursor. The user's message holds the text before the cursor between <before> and </before> "
    "and the text after it between <after> and </after>. Answer with exactly the characters to insert at the cursor: "
    "before, answer and after must read as one text. No explanation, no Markdown fence, and nothing repeated of what "
    "stands before or after. Begin and end with the blanks, line breaks and indentation that belong there."
)


def emulation(before: str, after: str) -> list[JsonValue]:
    """The chat messages that ask for the middle."""
    question = f"<before>{before}</before><after>{after}</after>"
    return [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": question}]


def text_chunk(framing: Framing, text: str, finish: str | None = None) -> dict[str, JsonValue]:
    """A `text_completion` object of one choice: an event of a stream, or the whole reply."""
    return {
        "id": f"cmpl-{framing.reply_id}",
        "object": "text_completion",
        "created": framing.created_s,
        "model": framing.model,
        "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": finish}],
    }


# Bounded, so that neither long runs of blanks are held back nor a text is read again and again.
_OPENING = re.compile(r"\s{0,64}(`{3,16})[^`\n]{0,40}\n")
_MAYBE_OPENING = re.compile(r"\s{0,64}(`{0,2}|`{3,16}[^`\n]{0,40})")
_MAYBE_CLOSING = re.compile(r"[ \t\r]{0,64}(`{0,16})[ \t\r]{0,64}")


class Unfenced:
    """Takes one Markdown fence from around a text that arrives in pieces, and what comes after its closing line.

    Holds back blanks at the very beginning, and in a fence a line end with what may become the closing line.
    """

    def __init__(self) -> None:
        self._held = ""
        self._fence: str | None = None  # the backticks that opened it
        self._begun = False
        self._closed = False
        self._owed = ""  # the end of the last line: part of the text only if the next one does not close the fence
        self._in_line = False

    def feed(self, piece: str) -> str:
        """What is known to be text, now that `piece` has come."""
        return self._take(piece, ended=False)

    def end(self) -> str:
        """What was held back and is text after all."""
        return self._take("", ended=True)

    def _take(self, piece: str, ended: bool) -> str:
        self._held += piece
        if not self._begun and not self._begin(ended):
            return ""
        if self._fence is None:
            text, self._held = self._held, ""
            return text
        return self._lines(self._fence, ended)

    def _begin(self, ended: bool) -> bool:
        opening = _OPENING.match(self._held)
        if opening is not None:
            self._fence = opening.group(1)
            self._held = self._held[opening.end() :]
        elif not ended and _MAYBE_OPENING.fullmatch(self._held):
            return False
        self._begun = True
        return True

    def _lines(self, fence: str, ended: bool) -> str:
        text = ""
        while not self._closed:
            line, newline, rest = self._held.partition("\n")
            if not self._in_line:
                whole = bool(newline) or ended
                if whole and _closes(line, fence):
                    self._closed = True
                    break
                if not whole and _MAYBE_CLOSING.fullmatch(line):  # it may still become one
                    return text
                text += self._owed
                self._owed = ""
            text += line
            self._held, self._owed, self._in_line = rest, newline, not newline
            if not newline:
                return text
        self._held = ""
        return text


def _closes(line: str, fence: str) -> bool:
    closing = _MAYBE_CLOSING.fullmatch(line)
    return closing is not None and len(closing.group(1)) >= len(fence)


class Stops:
    """Ends a text that arrives in pieces before the first of some strings. Holds back what may begin one of them."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.hit = False

    def feed(self, piece: str) -> str:
        """What is known to stand before every stop string, now that `piece` has come."""
        if self.hit:
            return ""
        text = self._held + piece
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.hit, self._held = True, ""
            return text[: min(found)[1]]  # of the first one to be complete, however the text was cut
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for at in range(max(0, len(text) - longest), len(text)):
            if any(stop.startswith(text[at:]) for stop in self._stops):
                self._held = text[at:]
                return text[:at]
        self._held = ""
        return text

    def end(self) -> str:
        """What was held back and is text after all."""
        text, self._held = self._held, ""
        return text


class MiddleWriter:
    """Writes a chat model's answer as a completion. Implements `Writer`.

    Reasoning is left out, a fence around the answer is taken off unless the texts around the gap hold fences of their
    own. Calls have no place in a completion: none was offered, and none is written, whatever the gate said. After a
    stop string the rest of the answer is dropped; the engine goes on to its own end, which brings the count of tokens.
    """

    def __init__(self, ask: FimAsk, framing: Framing, include_usage: bool) -> None:
        self._ask = ask
        self._framing = framing
        self._include_usage = include_usage
        self._unfenced = None if FENCE in ask.before or FENCE in ask.after else Unfenced()
        self._stops = Stops(ask.stop)
        self._text: list[str] = []
        self._final: Mapping[str, JsonValue] | None = None

    @property
    def final(self) -> Mapping[str, JsonValue] | None:
        """The whole completion, once `finish` was called."""
        return self._final

    def reasoning(self, text: str) -> bytes:
        """Nothing: a completion has no place for it."""
        del text
        return b""

    def text(self, text: str) -> bytes:
        """An event with what is known to be part of the middle."""
        return self._write(self._stops.feed(text if self._unfenced is None else self._unfenced.feed(text)))

    def finish(self, end: End) -> bytes:
        """The rest of the text, the finish reason, the usage if it was asked for, and `[DONE]`."""
        rest = self._stops.feed("" if self._unfenced is None else self._unfenced.end()) + self._stops.end()
        data = self._write(rest)
        finish = "stop" if self._stops.hit or end.finish == "tool_calls" else end.finish
        extension: dict[str, JsonValue] = {"fim": "emulated", **end.extension}
        usage = _usage(end.usage)
        self._final = {
            **text_chunk(self._framing, "".join(self._text), finish),
            "usage": usage,
            "x_gatehouse": extension,
        }
        data += data_event(dump({**text_chunk(self._framing, "", finish), "x_gatehouse": extension}))
        if self._include_usage:
            data += data_event(dump({**text_chunk(self._framing, ""), "choices": [], "usage": usage}))
        return data + DONE

    def keepalive(self, silent_s: float) -> bytes:
        """A comment at first, then an event without text."""
        return COMMENT if silent_s < DATA_AFTER_S else data_event(dump(text_chunk(self._framing, "")))

    def failed(self, failure: Failure) -> bytes:
        """The error as an event; no `[DONE]` follows."""
        return data_event(failure.body)

    def again(self) -> Writer:
        """A writer for another attempt."""
        return MiddleWriter(self._ask, self._framing, self._include_usage)

    def _write(self, text: str) -> bytes:
        if not text:
            return b""
        self._text.append(text)
        return data_event(dump(text_chunk(self._framing, text)))


def _usage(usage: Usage) -> dict[str, JsonValue]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }

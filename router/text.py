"""Which part of a text counts: harness boilerplate out, long texts cut to their head and tail."""

import re
from typing import Final

HEAD_CHARS: Final = 1_500
TAIL_CHARS: Final = 1_500

# What coding agents wrap into the *user's* message. None of it was said by the user, and its "think hard" or "never
# delete" would count as the user's words.
_HARNESS_TAGS: Final = (
    "system-reminder",
    "environment_context",
    "environment_details",
    "user_instructions",
    "INSTRUCTIONS",
    "command-message",
    "command-name",
    "command-args",
    "local-command-stdout",
    "local-command-caveat",
    "ide_selection",
    "ide_opened_file",
)
_OPENINGS: Final = {tag: re.compile(rf"<{tag}(?:\s[^<>]{{0,200}})?>") for tag in _HARNESS_TAGS}
_CLOSINGS: Final = re.compile(rf"</({'|'.join(_HARNESS_TAGS)})>")
_MOST_BLOCKS: Final = 64


def strip_harness(text: str) -> str:
    """`text` without the blocks that an agent's harness put into it; linear in its length.

    A block that is never closed stays, and so do those after the first 64: dropping the rest of a message would hide
    what the user asks for.
    """
    closed = set(_CLOSINGS.findall(text)) if "<" in text else ()
    if not closed:
        return text
    # Each tag has its own search, which only moves forward.
    upcoming = {tag: found for tag in _HARNESS_TAGS if tag in closed and (found := _OPENINGS[tag].search(text))}
    kept: list[str] = []
    position = 0
    while upcoming and len(kept) < _MOST_BLOCKS:
        tag = min(upcoming, key=lambda each: upcoming[each].start())
        opening = upcoming.pop(tag)
        if opening.start() >= position:
            end = text.find(f"</{tag}>", opening.end())
            if end < 0:
                continue  # nor will a later one of this tag be closed
            kept.append(text[position : opening.start()])
            position = end + len(tag) + 3
        if following := _OPENINGS[tag].search(text, max(position, opening.end())):
            upcoming[tag] = following
    return "".join((*kept, text[position:])) if kept else text


def window(text: str, head_chars: int = HEAD_CHARS, tail_chars: int = TAIL_CHARS) -> str:
    """Head and tail of a long text, the whole of a short one: where people put what they want."""
    if len(text) <= head_chars + tail_chars:
        return text
    return f"{text[:head_chars]}\n{text[-tail_chars:]}"

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
_OPENING: Final = re.compile(rf"<({'|'.join(_HARNESS_TAGS)})(?:\s[^<>]{{0,200}})?>")


def strip_harness(text: str) -> str:
    """`text` without the blocks that an agent's harness put into it; linear in its length.

    A block that is never closed stays: dropping the rest of a message would hide what the user asks for.
    """
    if "</" not in text:
        return text
    kept: list[str] = []
    unclosed: set[str] = set()
    position = 0
    for opening in _OPENING.finditer(text):
        tag = opening[1]
        if opening.start() < position or tag in unclosed:
            continue
        end = text.find(f"</{tag}>", opening.end())
        if end < 0:
            unclosed.add(tag)  # one search per tag, not one per opening: stays linear on hostile input
            continue
        kept.append(text[position : opening.start()])
        position = end + len(tag) + 3
    if position == 0:
        return text
    kept.append(text[position:])
    return "".join(kept)


def window(text: str, head_chars: int = HEAD_CHARS, tail_chars: int = TAIL_CHARS) -> str:
    """Head and tail of a long text, the whole of a short one: where people put what they want."""
    if len(text) <= head_chars + tail_chars:
        return text
    return f"{text[:head_chars]}\n{text[-tail_chars:]}"

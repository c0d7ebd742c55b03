"""Words put together of their parts, and the values of variables where they are used; nothing here walks a tree."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from deployments.gate.shell.atoms import MAX_BRACES, MAX_CHARACTERS, PIPED, Source, Unprovable, Word
from deployments.gate.shell.names import NUMBERS

WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")
# What a calculation leaves in a variable.
INTEGER = Word(None, pieces=(Source(kind="integer"),))
# Ends the form of `$HOME` and `$PWD`: what follows them decides whether they are known.
FOLLOWED = "/"


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a word.

    `text` is None where it is not known; `sources` are then where it comes from. `form` is what both readers must see.
    `glob`, `loose` and `symbolic` are as in `Word`; `expanded`: it stands for an expansion, or holds one.
    """

    text: str | None
    form: str
    glob: bool = False
    loose: bool = False
    expanded: bool = False
    symbolic: bool = False
    sources: tuple[str | Source, ...] = ()


def word_of(pieces: Sequence[Piece]) -> Word:
    """Pieces put together. `$HOME` and `$PWD` are known only as the first part of a path."""
    resolved: list[Piece] = []
    for place, piece in enumerate(pieces):
        if piece.expanded and piece.form.endswith(FOLLOWED) and piece.text in {"~", "."}:
            following = "".join(later.text or "" for later in pieces[place + 1 : place + 2])
            last = place + 1 == len(pieces)
            usable = place == 0 and (last or following.startswith("/"))
            text = piece.text if usable else None
            resolved.append(Piece(text, piece.form[:-1], loose=piece.loose, expanded=True, symbolic=piece.symbolic))
            continue
        resolved.append(piece)
    form = "".join(piece.form for piece in resolved)
    expanded = any(piece.expanded for piece in resolved)
    glob = any(piece.glob for piece in resolved)
    loose = any(piece.loose for piece in resolved)
    several = loose or any(piece.glob and not piece.expanded for piece in resolved)
    if all(piece.text is not None for piece in resolved):
        text = "".join(piece.text or "" for piece in resolved)
        if len(text) > MAX_CHARACTERS or sum(len(piece.sources) for piece in resolved) > MAX_BRACES:
            raise Unprovable("a value that is too long")
        # A lone `[` is the test command: a bracket without its partner matches nothing but itself.
        glob, several = (False, loose) if text in {"[", "[["} else (glob, several)
        symbolic = any(piece.symbolic for piece in resolved)
        return Word(text, glob, loose, form if expanded else None, several=several, symbolic=symbolic)
    if len(resolved) == 1 and form == "\0<(":
        # What the command inside prints: that command is judged, and the name of the pipe is harmless.
        return Word(None, False, False, form, "/dev/fd/", PIPED, pieces=resolved[0].sources)
    made: list[str | Source] = []
    if sum(max(1, len(piece.sources)) for piece in resolved) > MAX_BRACES:
        raise Unprovable("a value that is too long")
    for piece in resolved:
        if piece.text is None:
            made += piece.sources or (Source(),)
        else:
            made.append(Source() if piece.glob or piece.symbolic or piece.text.startswith("~") else piece.text)
    known = list(takewhile(lambda piece: isinstance(piece, str), made))
    starts = "".join(str(piece) for piece in known)
    return Word(None, False, loose, form, starts, several=several, pieces=tuple(made))


def expanded(value: Word | None, name: str, form: str, within: bool) -> Piece:
    """A value where it is used."""
    if value is None or value.text is None:
        if value is None and name in {"HOME", "PWD"}:
            if name == "HOME":
                return Piece("~", form + FOLLOWED, expanded=True)
            return Piece(".", form + FOLLOWED, loose=not within, expanded=True, symbolic=True)
        if value is None and name in NUMBERS:
            return Piece(None, form, expanded=True, sources=(Source(kind="number"),))
        pieces = () if value is None else value.pieces
        return Piece(None, form, loose=not within, expanded=True, sources=pieces)
    if value.glob:
        return Piece(value.text, form, glob=True, loose=not within, expanded=True, symbolic=value.symbolic)
    if value.symbolic and not within:
        return Piece(None, form, loose=True, expanded=True)
    if within or re.fullmatch(r"[^\s*?\[\]\\~]+", value.text):
        return Piece(value.text, form, expanded=True, symbolic=value.symbolic)
    if value.text.startswith("~") and re.fullmatch(r"[^\s*?\[\]\\]+", value.text):
        return Piece(value.text, form, expanded=True)
    return Piece(None, form, loose=True, expanded=True)


def element(value: Word | None, index: str | None, length: bool) -> Word:
    """`${NAME[INDEX]}` with a plain index."""
    if index is None or not re.fullmatch(r"@|\*|0|[1-9][0-9]{0,3}", index):
        raise Unprovable("a subscript that is not plain")
    items = None if value is None else value.items
    if index in {"@", "*"}:
        if length:
            return Word(str(len(items))) if items is not None else Word(None, pieces=(Source(kind="number"),))
        return Word(None)
    if items is None:
        return Word(None)
    return items[int(index)] if int(index) < len(items) else Word("")


def appended(before: Word | None, value: Word) -> Word:
    """`NAME+=...`: known for known text and for arrays."""
    form = "\0+" + value.shape
    if before is not None and before.items is not None and value.items is not None:
        if len(before.items) + len(value.items) > MAX_BRACES:
            raise Unprovable("an array of many elements")
        return Word(None, form=form, items=(*before.items, *value.items))
    texts = [word.text for word in (before, value) if word is not None and not word.glob and not word.symbolic]
    if len(texts) == 2 and before is not None and before.items is None and None not in texts:
        return Word("".join(text or "" for text in texts), form=form)
    return Word(None, form=form)


def is_number(word: Word) -> bool:
    """True for text that is a number, and for what calculations made."""
    if word.text is not None:
        return not word.glob and WHOLE_NUMBER.fullmatch(word.text) is not None
    return len(word.pieces) == 1 and isinstance(word.pieces[0], Source) and word.pieces[0].kind in {"integer", "number"}

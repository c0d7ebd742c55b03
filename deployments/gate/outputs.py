"""What a command prints, by type: so that a word which is only known when it runs may still be known to be a number.

A type is a promise about every line that a command prints, whatever the machine holds: the specification declares it
(`prints`), for exactly the flags that it names. A value is typed only where the whole way from the command to the word
is known: pipes through programs that pass lines on, `$(...)`, `read`, loops. What is not typed stays unknown.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from deployments.gate import feeds
from deployments.gate.feeds import Read
from deployments.gate.shell.atoms import Atom, Cut, Redirect, Source, Word
from deployments.gate.specs import Prints

# What every line is. No line of these kinds holds a blank (but for `clock`, which is therefore one word in quotes only)
# or a character of globs; only `integer` and `ref`, what git calls a branch or a tag, may begin with a dash: a
# repository may be cloned with a tag `--output=x`. `made` is a word put together of such and of known text; `path`
# names a file below `Word.below`. Only on the way: `numbered`, `hashed` and `named` are lines that begin with a number,
# a hash, or a name and a blank, `top` is a directory: where the work is, or the root of it.
KINDS: Mapping[str, re.Pattern[str]] = {
    "number": re.compile(r"[0-9]+"),
    "integer": re.compile(r"-?[0-9]+"),
    "hash": re.compile(r"[0-9a-f]+"),
    "numbers": re.compile(r"[0-9]+(,[0-9]+)*"),
    "stamp": re.compile(r"[0-9][0-9_.-]*"),
    "moment": re.compile(r"[0-9][0-9TZ:+_.-]*"),
    "clock": re.compile(r"[0-9][0-9TZ:+_. -]*"),
    "ref": re.compile(r"[^\s~^:?*\[\\]+"),
    "name": re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*"),
    "kube-name": re.compile(r"[a-z0-9][a-z0-9.-]*"),
    "kube-object": re.compile(r"[a-z][a-z0-9.-]*/[A-Za-z0-9][A-Za-z0-9_.:-]*"),
    "cloud-id": re.compile(r"[a-z]+-[0-9a-f]+|None"),
    "arn": re.compile(r"arn:[A-Za-z0-9_.:/+=@-]+|None"),
}
# Texts that stand for any other of their kind: no reader here tells one number, or one hash, from another.
SAMPLES: Mapping[str, tuple[str, ...]] = {
    "number": ("7", "4242"),
    "integer": ("7", "4242", "-5"),
    "hash": ("0a1b2c3d", "1234567", "deadbeef" * 5),
    "numbers": ("7", "7,4242"),
    "cloud-id": ("i-0a1b2c3d4e5f60718", "None"),
    "stamp": ("2026-01-31", "20260131", "7_5.1"),
    "moment": ("2026-01-31T10:20:30Z", "2026-01-31T10:20:30+0100", "20260131", "10:20"),
    "clock": ("2026-01-31 10:20:30", "2026-01-31", "10:20"),
}
# In a range of revisions (`main..NAME`): such a word is no file of any name that matters.
_RANGED: Mapping[str, tuple[str, ...]] = {**SAMPLES, "ref": ("topic", "fix/a-1")}
_MAX_PIPES = 8
_MAX_SAMPLES = 64


@dataclass(frozen=True, slots=True)
class Output:
    """What each line of an output is, or (`words`) each word of it; `single`: there is at most one.

    `of` are the types of objects that it names, `below` the paths below which it names files. `dashless`: no name of
    these begins with a dash.
    """

    kind: str
    single: bool = False
    below: tuple[str, ...] = ()
    of: tuple[str, ...] = ()
    words: bool = False
    dashless: bool = False


def output(programs: feeds.Programs, atom: Atom | None) -> Output | None:
    """The type of what a command prints; None when it may print anything."""
    single, whole, read = False, atom, None
    for _ in range(_MAX_PIPES):
        if atom is None or not atom.argv or not all(map(_harmless, atom.redirects)):
            return None
        fed = atom.feed if not any(redirect.operator.startswith("<") for redirect in atom.redirects) else None
        read = feeds.read_flags(programs, [resolved(programs, word) for word in atom.argv])
        if read is None:
            return None
        declared = _declared(programs, read, fed)
        if declared is not None:
            return replace(declared, single=declared.single or single)
        if not passes(read):
            break
        single = single or _first_alone(read)
        atom = fed
    below = feeds.listed(programs, whole)
    return Output("path", single, below, dashless=read is not None and _begins_with_its_place(read)) if below else None


def _begins_with_its_place(read: Read) -> bool:
    """True when each name that a listing prints begins with an operand of it, and none of these with a dash.

    `find` without one begins with `.`; other programs leave that out, and a file of the workspace may be called `-f`.
    """
    node = read.node
    if node.bare_names or not ("*" in node.lists or node.lists & read.given):
        return False
    roles = [node.args[min(place, len(node.args) - 1)] for place in range(len(read.operands))] if node.args else []
    files = [word for word, role in zip(read.operands, roles, strict=False) if role == "file"]
    if "file" not in node.args:
        files = [word for word in read.operands if word.text not in feeds.FIND_SIGNS]
    plain = all(
        word.text is not None and word.text[:1].isalnum() or (word.text or "")[:1] in {".", "/"} for word in files
    )
    return plain and (bool(files) or node.path == ("find",))


def passes(read: Read) -> bool:
    """True when a command prints some of the lines that it reads from a pipe, as they are."""
    node = read.node
    fixed = node.args.count("text") - bool(node.drops_first & read.given)
    if node.passes is None or (node.repeats and node.args[-1] == "text"):
        return False
    return read.given <= node.passes and len(read.operands) <= fixed


def _first_alone(read: Read) -> bool:
    counts = [read.valued[name] for name in ("-n", "--lines", "-#") if name in read.valued]
    return read.node.path[-1] in {"head", "tail"} and counts[-1:] == ["1"]


def _harmless(redirect: Redirect) -> bool:
    """A redirect that adds nothing to what is printed."""
    return redirect.operator.startswith("<") or (
        redirect.operator in {">", ">>", "&>"} and redirect.target.text == "/dev/null"
    )


def _declared(programs: feeds.Programs, read: Read, fed: Atom | None) -> Output | None:
    node, given, valued = read.node, read.given, read.valued
    for prints in node.prints:
        if prints.with_ and not prints.with_ & given:
            continue
        if given - prints.with_ - prints.only - prints.values.keys() or not prints.values.keys() <= valued.keys():
            continue
        if any(not pattern.fullmatch(valued[name]) for name, pattern in prints.values.items()):
            continue
        if not _operands_fit(prints, read):
            continue
        of: tuple[str, ...] = ()
        if prints.kind.startswith("kube-"):
            of = tuple(dict.fromkeys((read.operands[0].text or "").split(","))) if read.operands else ()
        if prints.from_:
            source = output(programs, fed)
            if source is None or source.kind != prints.from_:
                continue
            return Output(prints.kind, source.single, (), source.of)
        return Output(prints.kind, bool(prints.single & (given | {"*"})), (), of, prints.words)
    return None


def _operands_fit(prints: Prints, read: Read) -> bool:
    if prints.most is not None and len(read.operands) > prints.most:
        return False
    if not read.operands and prints.operand.pattern != r"[^\n]*":
        return False  # `date` alone prints something else than `date +%s`
    texts = [word.text for word in read.operands if not word.glob and not word.several]
    if len(texts) < len(read.operands) or None in texts:
        # Words of which all is known but the letters: where any would do, these do.
        return prints.operand.pattern == r"[^\n]*" and not any(map(_several, read.operands))
    return all(prints.operand.fullmatch(text or "") for text in texts)


def resolved(programs: feeds.Programs, word: Word, arguments: Sequence[Word] = ()) -> Word:
    """The word with its kind, when all that it is made of is typed; `arguments` are those of its script."""
    if word.exact and word.text is not None and not word.text.startswith("-"):
        return Word(None, kind="made", of=word.exact, dashless=True, form=word.form)
    if word.text is not None or not word.pieces or word.kind or word.below:
        return word
    pieces = list(_bound(word, arguments))
    if all(isinstance(piece, str) for piece in pieces):
        text = "".join(str(piece) for piece in pieces)
        return Word(text) if not word.loose or re.fullmatch(r"[A-Za-z0-9_./:=@%+,-]+", text) else word
    if len(pieces) == 1 and isinstance(pieces[0], Word):
        bound = pieces[0]
        if word.loose and bound.kind in {"", "path"}:
            return replace(word, several=True)  # a name may hold blanks: what follows one is a word, perhaps a flag
        loose = word.loose or bound.loose
        return replace(bound, loose=loose, several=bound.several or loose, form=word.form)
    if len(pieces) == 1 and isinstance(pieces[0], Source):
        return _alone(programs, word, pieces[0])
    return _made(programs, word, pieces)


def _bound(word: Word, arguments: Sequence[Word]) -> Iterator[str | Source | Word]:
    """The pieces, with the arguments of a script in the places of `$1` and `$@`."""
    for piece in word.pieces:
        if isinstance(piece, str) or piece.atom is not None or not piece.kind.startswith("$"):
            yield piece
            continue
        place = piece.kind[1:]
        known = not any(argument.loose or argument.several for argument in arguments)
        if place == "@":
            # All of them: one word that may be several, which lies where they lie.
            given = list(arguments[1:])
            below = tuple(path for argument in given for path in argument.below)
            if given and all(argument.below for argument in given):
                dashless = all(argument.dashless for argument in given)
                one = piece.cut is not Cut.WHOLE
                yield Word(None, kind="path", below=below, loose=not one, several=not one, dashless=dashless)
                continue
        elif int(place) < len(arguments) and (known or not any(map(_several, arguments[: int(place) + 1]))):
            given_word = arguments[int(place)]
            yield given_word.text if given_word.text is not None and not given_word.glob else given_word
            continue
        yield Source()


def _several(word: Word) -> bool:
    return word.loose or word.several


def _alone(programs: feeds.Programs, word: Word, source: Source) -> Word:
    found = Output(source.kind, True) if source.atom is None and source.kind else output(programs, source.atom)
    if found is None or (found.kind not in KINDS and found.kind not in {"path", "top"}):
        return word
    if found.words and not (source.cut is Cut.WORD or (source.cut is Cut.WHOLE and word.loose)):
        return word
    if found.kind == "clock" and (word.loose or source.cut is not Cut.WHOLE):
        return word
    if found.kind == "top":
        return replace(word, kind="path", below=(".",), of=("top",), dashless=not word.loose)
    one = source.cut in {Cut.WORD, Cut.LINE, Cut.RECORD} or source.atom is None
    kind = found.kind
    if kind == "path":
        # A name may hold a newline or a blank, and a dash after it: only a record is surely cut where a name begins.
        dashless = found.dashless and source.cut is Cut.RECORD and not word.loose
        return replace(word, kind=kind, below=found.below, dashless=dashless)
    dashless = kind not in {"integer", "ref"}
    loose = word.loose and not one
    return replace(
        word,
        kind=kind,
        of=found.of,
        dashless=dashless,
        loose=loose,
        several=loose and not (found.single or source.cut is Cut.FIELD),
    )


def _made(programs: feeds.Programs, word: Word, pieces: Sequence[str | Source | Word]) -> Word:
    """A word put together: of known text, and of numbers and hashes, for each of which a few stand for all."""
    texts: list[tuple[str, ...]] = []
    ranged = any(isinstance(piece, str) and ".." in piece and "/." not in piece for piece in pieces)
    many = False
    for piece in pieces:
        if isinstance(piece, str):
            texts.append((piece,))
            continue
        if isinstance(piece, Word):
            return word
        alone = _alone(programs, Word(None, loose=True), piece)
        if alone.kind == "" and not word.loose:
            alone = _alone(programs, Word(None), piece)
        before = pieces[0] if len(pieces) == 2 and piece is pieces[1] and isinstance(pieces[0], str) else ""
        if alone.kind == "kube-name" and not alone.several and re.fullmatch(r"[a-z][a-z.]*/", before):
            # `deploy/$name`: a resource of that type, whichever.
            return replace(word, kind="kube-object", of=(before[:-1],), dashless=True, loose=False, several=False)
        if alone.of == ("top",) and piece == pieces[0] and isinstance(pieces[1], str) and pieces[1].startswith("/"):
            # What was not printed leaves a path from the root.
            rest = "".join(str(part) for part in pieces[1:])
            if not all(isinstance(part, str) for part in pieces[1:]):
                return word
            return replace(word, kind="path", below=(f".{rest}", rest), dashless=not word.loose)
        known = _RANGED if ranged else SAMPLES
        if alone.kind not in known:
            return word
        samples = known[alone.kind]
        many = many or alone.several
        if piece.atom is not None and piece.cut in {Cut.WHOLE, Cut.FIELD}:
            samples = (*samples, "") if not alone.several else (*samples, "", "7\n7")
        texts.append(samples)
    made = tuple(dict.fromkeys("".join(parts) for parts in product(*texts)))
    if len(made) > _MAX_SAMPLES:
        return word
    dashless = all(text and not text.startswith("-") for text in made)
    # Without a blank in any of it, a word of one line is one word; a word that may be empty is perhaps none.
    loose = word.loose and (many or "" in made)
    return replace(word, kind="made", of=made, dashless=dashless, loose=loose, several=loose and many)


def samples(word: Word) -> tuple[str, ...]:
    """Texts that stand for all that a typed word may be; none where no few of them can."""
    if word.kind == "made":
        return word.of
    return SAMPLES.get(word.kind, ())

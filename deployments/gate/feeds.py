"""What a pipe feeds to `xargs`: the listing command as it is read, and the paths below which it names files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from deployments.gate import globs
from deployments.gate.shell.atoms import Atom, Word
from deployments.gate.specs import Flag, Node

Programs: TypeAlias = Mapping[str, Node]
FIND_SIGNS = frozenset({"(", ")", "!", ",", ";", "+", "{}"})


def listed(programs: Programs, feed: Atom | None) -> tuple[str, ...]:
    """The paths below which a command that feeds `xargs` names files; empty when it may print anything.

    Names that hold blanks are split into words, so this bounds what is read, not which words there are: it is
    used only for programs that no word makes dangerous, and there at worst a planted name has a file read.
    """
    sought: list[str] = []
    for _ in range(8):
        if feed is None or not feed.argv or any(item.target.text != "/dev/null" for item in feed.redirects):
            return ()
        read = read_flags(programs, feed.argv)
        if read is None:
            return ()
        node, given, operands, values = read.node, read.given, read.operands, read.values
        if "*" in node.lists or node.lists & given:
            if node.lists_not & given:
                return ()
            covering = below(node, operands, values)
            # Names without their directory are read where they are used.
            return (*covering, *sought, *(["."] if node.bare_names and covering else []))
        fixed = node.args.count("text") - bool(node.drops_first & given)
        if (node.repeats and node.args[-1] == "text") or node.passes is None:
            return ()
        if not given <= node.passes or len(operands) > fixed:
            return ()
        # `grep '\\.env$'` looks for something: so does what follows.
        for text in [*(word.text or "" for word in operands), *values]:
            sought += [f"./{glob}" for glob in globs.of_regex(text)]
        feed = feed.feed
    return ()


def given_text(atom: Atom) -> str | None:
    """What a command reads on its input, when that is written in the line: a here-document, or what `echo` prints."""
    inputs = [redirect for redirect in atom.redirects if redirect.operator.startswith("<")]
    if inputs:
        word = inputs[0].target
        return _exactly(word) if len(inputs) == 1 and inputs[0].operator in {"<<", "<<<"} else None
    feed = atom.feed
    if feed is None or len(feed.argv) != 2 or feed.argv[0].text != "echo" or feed.redirects:
        return None
    text = _exactly(feed.argv[1])
    return None if text is None or text.startswith("-") else text


def _exactly(word: Word) -> str | None:
    return None if word.glob or word.symbolic or word.loose or word.several else word.text


@dataclass(frozen=True, slots=True)
class Read:
    """A command as the judge reads it: its node, its flags and their values, its operands.

    `values` has every value, in a form that may name files; `valued` the last value of each flag, as it is written, and
    of `-5` under the name `-#`.
    """

    node: Node
    given: set[str] = field(default_factory=set[str])
    operands: list[Word] = field(default_factory=list[Word])
    values: list[str] = field(default_factory=list[str])
    valued: dict[str, str] = field(default_factory=dict[str, str])

    def take(self, flag: Flag, value: str) -> None:
        """Note the value of a flag."""
        self.given.add(flag.name)
        self.valued[flag.name] = value
        self.values.append(f"*.{value.lstrip('.')}" if flag.role == "name-extension" else value)


def read_flags(programs: Programs, argv: Sequence[Word]) -> Read | None:
    """A command as `_command` reads it, without judging; None where a word is not known, or not listed."""
    node = programs.get(argv[0].text or "")
    if node is None:
        return None
    read = Read(node)
    words = list(argv[1:])
    while words:
        word = words.pop(0)
        text = word.text
        if text is None:
            # A word that is surely an operand, whatever it is.
            if not word.dashless or word.loose or read.node.sub:
                return None
            read.operands.append(word)
            continue
        if not read.operands and text in read.node.sub:
            read = Read(read.node.sub[text], read.given, read.operands, read.values, read.valued)
            continue
        flags = read.node.flags
        name, equals, attached = text.partition("=")
        flag = flags.get(text) or flags.get(name)
        dashed = text.startswith("-") and text != "-"  # a lone dash is an operand: the input
        if flag is None and dashed and not read.node.single and not text.startswith("--"):
            letters = [flags.get(f"-{letter}") for letter in text[1:]]
            if text[1:].isdigit() and "-#" in flags:
                read.valued["-#"] = text[1:]
                continue
            if None in letters or any(letter and letter.value != "none" for letter in letters[:-1]):
                short = letters[0]
                if short is None or short.value == "none":
                    return None
                read.take(short, text[2:].removeprefix("="))
                continue
            read.given.update(letter.name for letter in letters if letter is not None)
            flag = letters[-1]
            equals = ""
        if flag is None:
            if dashed:
                return None
            read.operands.append(word)
            continue
        read.given.add(flag.name)
        if flag.value == "none" or (flag.value == "optional" and not equals):
            continue
        value = attached if equals else (words.pop(0).text if words else None)
        if value is None:
            return None
        if flag.second is not None and words:
            words.pop(0)
        read.take(flag, value)
    return read


def below(node: Node, operands: Sequence[Word], values: Sequence[str]) -> tuple[str, ...]:
    """Paths that cover what a listing command prints: its operands, and all that the values of its flags may name."""
    roles = [node.args[min(place, len(node.args) - 1)] for place in range(len(operands))] if node.args else []
    files = [word.text or "" for word, role in zip(operands, roles, strict=False) if role == "file"]
    starts = (
        files if "file" in node.args else [word.text or "" for word in operands if word.text not in FIND_SIGNS]
    ) or ["."]
    if any(not start or start.startswith("-") for start in starts):
        return ()
    # What a search for names (`fd PATTERN`) was made for.
    values = [*values, *(glob for word, role in zip(operands, roles, strict=False) if role == "name-regex"
                         for glob in globs.of_regex(word.text or ""))]  # fmt: skip
    named = [value if value.startswith(("/", "~")) else f"{start}/{value}" for start in starts for value in values]
    return (*starts, *(path.lower() for path in named if path != path.lower()), *named)

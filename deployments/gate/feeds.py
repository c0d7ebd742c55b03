"""What a pipe feeds to `xargs`: the listing command as it is read, and the paths below which it names files."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from deployments.gate import globs
from deployments.gate.shell.atoms import Atom, Word
from deployments.gate.specs import Node

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
        node, given, operands, values = read_flags(programs, feed.argv)
        if node is None:
            return ()
        if "*" in node.lists or node.lists & given:
            return () if node.lists_not & given else (*below(node, operands, values), *sought)
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


def read_flags(programs: Programs, argv: Sequence[Word]) -> tuple[Node | None, set[str], list[Word], list[str]]:
    """A command as `_command` reads it, without judging: its node, flags, operands and the values of flags."""
    node = programs.get(argv[0].text or "")
    given: set[str] = set()
    operands: list[Word] = []
    values: list[str] = []
    words = list(argv[1:])
    while node is not None and words:
        text = words.pop(0)
        if text.text is None:
            return None, given, operands, values
        if not operands and text.text in node.sub:
            node = node.sub[text.text]
            continue
        name, equals, attached = text.text.partition("=")
        flag = node.flags.get(text.text) or node.flags.get(name)
        if flag is None and text.text.startswith("-") and not node.single and not text.text.startswith("--"):
            letters = [node.flags.get(f"-{letter}") for letter in text.text[1:]]
            if text.text[1:].isdigit() and "-#" in node.flags:
                continue
            if None in letters or any(letter and letter.value != "none" for letter in letters[:-1]):
                short = letters[0]
                if short is None or short.value == "none":
                    return None, given, operands, values
                given.add(short.name)
                value = text.text[2:].removeprefix("=")
                values.append(f"*.{value.lstrip('.')}" if short.role == "name-extension" else value)
                continue
            given |= {letter.name for letter in letters if letter is not None}
            flag = letters[-1]
            equals = ""
        if flag is None:
            if text.text.startswith("-"):
                return None, given, operands, values
            operands.append(text)
            continue
        given.add(flag.name)
        if flag.value == "none" or (flag.value == "optional" and not equals):
            continue
        value = attached if equals else (words.pop(0).text if words else None)
        if value is None:
            return None, given, operands, values
        if flag.second is not None and words:
            words.pop(0)
        values.append(f"*.{value.lstrip('.')}" if flag.role == "name-extension" else value)
    return node, given, operands, values


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

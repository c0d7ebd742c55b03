"""The words of a command that are no flags, and values of flags: what may stand where, and what each of them names.

A word that is only known when it runs may stand where nothing that it may be is read as a flag, as a subcommand or as
a command; a word that may be several stands in every place from its own on.
"""

import re
from collections.abc import Sequence

from deployments.gate import outputs
from deployments.gate.feeds import Read
from deployments.gate.findings import Facts
from deployments.gate.policy import Bundle
from deployments.gate.roles import Directories, judge_objects, judge_path, judge_word
from deployments.gate.shell.atoms import Atom, Cut, Source, Word, source_of
from deployments.gate.specs import Flag, Node

# Roles of words that run something: their positions are found, not judged.
RUNNING = frozenset({"command", "script", "assignment"})
# Roles of words of any form, as long as they are one word.
_ANY = frozenset({"text", "name-regex", "file", "operand", "written"})
# Values of `aws`: there a flag is never the value of another one, and words that follow a value are more of them.
_NEVER_FLAGS = frozenset({"aws-value"})
# Letters that the names of a program's own dashed words are made of: a glob with another one matches none of them.
_WORDLIKE = re.compile(r"[a-z*?\[\]!^-]*")
_SUFFIXED = re.compile(r".*\.[A-Za-z0-9]+", re.S)
# How many words of its input, or lines of it, `xargs` gives to a command at most: the last of all of these counts, and
# takes back a placeholder before it.
COUNTS = ("-n", "--max-args", "-L", "--max-lines")
_DELIMITERS = ("-d", "--delimiter")
_NEWLINE = "\\n"
_LINE_ENDS = frozenset({_NEWLINE, "\n", "\\0"})
_TEST_UNARY = frozenset({f"-{letter}" for letter in "efdrwxsLhnzbcpSt"})
_TEST_BINARY = frozenset({"=", "==", "!=", "-eq", "-ne", "-lt", "-le", "-gt", "-ge", "-nt", "-ot", "-ef"})


def judge_operands(
    bundle: Bundle, facts: Facts, node: Node, words: Sequence[Word], directories: Directories, drop: bool
) -> None:
    """Judge the positional words of a command; `drop`: the role of the first one is not there."""
    roles = [role for role in node.args[drop:] if role not in RUNNING]
    if not RUNNING.isdisjoint(node.args):
        _judge_before_command(bundle, facts, node, roles, words, directories)
        return
    if roles == ["k8s-objects"]:
        judge_objects(bundle, facts, words)
        return
    if len(words) > len(roles) and not node.repeats:
        facts.unknown(f"'{' '.join(node.path)}' has a word too many")
    for place, word in enumerate(words):
        if word.text is None and not node.any_words and not _open(node, roles, place) and not _typed(node, word):
            facts.unknown("a word that is only known when it runs")
        elif word.several and not node.repeats and not node.any_words:
            facts.unknown(f"'{word.text or '?'}' may stand for more words than '{' '.join(node.path)}' takes")
        # A word that the shell may replace by several stands in every place from its own on.
        one = word.text is not None or (node.any_words and not word.loose and not word.several)
        last = place if one and not word.glob else len(roles) - 1
        for role in dict.fromkeys(roles[min(place, len(roles) - 1) : last + 1]):
            judge_word(bundle, facts, role, word, directories)


def judge_here(
    bundle: Bundle, facts: Facts, node: Node, words: Sequence[Word], directories: Directories, drop: bool
) -> None:
    """A search that names no file searches where it runs. A word that may be no word at all names none."""
    named = sum(not word.loose for word in words) - (len(node.args) - 1 - drop)
    if named < 1:
        judge_path(bundle, facts, "file", Word("."), directories)


def _judge_before_command(
    bundle: Bundle, facts: Facts, node: Node, roles: Sequence[str], words: Sequence[Word], directories: Directories
) -> None:
    """The words of a wrapper before the command that it runs: variables to set, and its own."""
    plain: list[Word] = []
    for word in words:
        name, equals, value = (word.text or "").partition("=")
        if equals and "assignment" in node.args:
            judge_assignment(bundle, facts, name, Word(value, word.glob))
        else:
            plain.append(word)
        if word.several:
            facts.unknown(f"'{word.text or '?'}' may stand for several words, and for a command")
    if len(plain) > len(roles):
        facts.unknown(f"'{' '.join(node.path)}' has a word too many")
    for role, word in zip(roles, plain, strict=False):
        judge_word(bundle, facts, role, word, directories)


def _open(node: Node, roles: Sequence[str], place: int) -> bool:
    """True when a single word of any value may stand in this place, as far as its form goes."""
    return bool(roles) and roles[min(place, len(roles) - 1)] in _ANY


def judge_assignment(bundle: Bundle, facts: Facts, name: str, value: Word) -> None:
    """Variables that may be set to anything, or (`PAGER=cat`) to exactly this."""
    exact = None if value.text is None or value.glob else f"{name}={value.text}"
    if name not in bundle.environment and exact not in bundle.environment:
        facts.opaque(f"sets the variable {name}, which may change what runs")


def take_rest(facts: Facts, node: Node, positionals: list[Word], words: list[Word]) -> None:
    """The words after `--`: positional, whatever they look like.

    Not so for programs whose flags are whole words: to `find` only those before the first path end there.
    """
    if any(word.text is None for word in words) and not node.any_words:
        facts.unknown("a word that is only known when it runs")
    if node.single and any((word.text or "").startswith("-") for word in words):
        facts.unknown(f"'{' '.join(node.path)}' may read flags after '--'")
    facts.wide = facts.wide or any(word.text is None and not outputs.samples(word) for word in words)
    positionals += words


def judge_second(bundle: Bundle, facts: Facts, role: str, words: list[Word], directories: Directories) -> list[Word]:
    """The second value of a flag: the next word, so a word that may be none or several is not known to be it.

    Returns the words that are left.
    """
    if not words or words[0].loose or words[0].several or (words[0].text is None and role not in _ANY):
        facts.unknown("two values of which one may be missing, or more than one word")
        return words
    judge_word(bundle, facts, role, words[0], directories)
    return words[1:]


def judge_several(bundle: Bundle, facts: Facts, node: Node, word: Word, directories: Directories) -> None:
    """The value of a flag that the shell may replace by several words: those after the first stand for themselves.

    They may be positional words, and flags unless the word itself says otherwise.
    """
    text = word.text or ""
    dashed = text[:1] in {"*", "?", "[", "-", ""} and (not node.single or _WORDLIKE.fullmatch(text) is not None)
    if dashed or word.loose or not (node.repeats or node.single):
        facts.unknown(f"file names in place of '{text}' may be read as flags, or as words of their own")
    elif node.args:
        judge_word(bundle, facts, node.args[-1], word, directories)


def fits_anywhere(node: Node, word: Word, later: bool) -> bool:
    """True when a word of unknown value is surely an operand, or when no word is dangerous to the program.

    `later`: an operand came before it, so that it is no subcommand.
    """
    if not RUNNING.isdisjoint(node.args):
        return False
    if word.dashless and not _may_be_listed(node, word, later):
        return True
    if node.sub and not later:
        return False
    if node.any_words or (node.any_names and word.below):
        return True
    return not word.loose and bool(word.starts) and not word.starts.startswith("-")


def _may_be_listed(node: Node, word: Word, later: bool) -> bool:
    """True when a typed word may be a subcommand, or one of the flags that have no dash."""
    listed = [*(() if later else node.sub), *(name for name in node.flags if not name.startswith("-"))]
    kind = outputs.KINDS.get(word.kind)
    if kind is None:
        return any(name.startswith(word.starts) for name in listed)
    # No word at all makes the next one the first.
    if word.loose and node.sub and not later:
        return True
    return any(kind.fullmatch(name) for name in listed)


def _typed(node: Node, word: Word) -> bool:
    """True for a word whose kind is known, so that its role says whether it may stand there."""
    return bool(word.kind) and (word.kind != "path" or word.dashless or node.any_names)


def values_alone(flag: Flag, word: Word) -> bool:
    """True for typed words, how many ever, after a flag of a program that takes nothing but values after it."""
    return flag.role in _NEVER_FLAGS and word.dashless and word.kind not in {"", "path"}


def fits_value(flag: Flag, word: Word, last: bool) -> bool:
    """True when the value of a flag need not be known: it is typed, or nothing that it may be is read in any way.

    Where it may be missing it must be the `last` word, or the flag would take the next one.
    """
    if flag.effects:
        return False
    if values_alone(flag, word):
        return True
    if (word.loose and not (last and word.dashless)) or word.several:
        return False
    return bool(word.kind) or (flag.role == "text" and word.starts[:1].isalnum())


def harmless_names(node: Node, word: Word) -> bool:
    """True when file names in place of a glob are harmless to the program, even one that begins with a dash."""
    return node.any_names or (node.dotted_names and not word.loose and _SUFFIXED.fullmatch(word.text or "") is not None)


def handed(own: Read | None, feed: Atom | None) -> Word:
    """The words of its input that `xargs` adds to a command; `own`: its own words, None if they cannot be read.

    One word each time with `-n1`; with `-L1` those of a line, which is one word if lines hold no blank.
    """
    if own is None or any(own.valued.get(name, _NEWLINE) not in _LINE_ENDS for name in _DELIMITERS):
        return Word(None, loose=True, several=True, pieces=(Source(),))  # a piece of a word may begin with a dash
    counts = [(name, own.valued[name]) for name in COUNTS if name in own.valued]
    words, lines = counts in ([("-n", "1")], [("--max-args", "1")]), counts in ([("-L", "1")], [("--max-lines", "1")])
    cut = Cut.FIELD if words else Cut.LINE if lines else Cut.WHOLE
    return Word(None, loose=True, several=not words, pieces=(source_of(feed, cut),))


def placed(word: Word, placeholder: str, source: Source) -> Word:
    """A word of a command with a line of an input in the placeholder's place."""
    if word.text is None or placeholder not in word.text:
        return word
    pieces: list[str | Source] = []
    for place, text in enumerate(word.text.split(placeholder)):
        pieces += [source] if place else []
        pieces += [text] if text else []
    starts = pieces[0] if isinstance(pieces[0], str) else ""
    return Word(None, pieces=tuple(pieces), starts=starts)


def filled(word: Word, placeholder: str, below: tuple[str, ...], starts: str = "") -> Word:
    """A word of a command with the name of a file in the placeholder's place: not known, but perhaps where it lies."""
    if word.text is None or placeholder not in word.text:
        return word
    if word.text != placeholder:
        return Word(None)
    return Word(None, below=below, starts=starts, kind="path" if below else "", dashless=bool(starts))


def harmless_test(argv: Sequence[Word]) -> bool:
    """`[ -n "$x" ]`, `[ "$a" = b ]`: one test whose operator is literal, so that no word can become `-v NAME[...]`.

    Values that are not known are only compared; `test` reads numbers as numbers and runs nothing.
    """
    words = list(argv[1:])
    if argv[0].text == "[" and (not words or words.pop().text != "]"):
        return False
    if any((word.loose and word.kind in {"", "path"}) or word.glob for word in words):
        return False
    if words and words[0].text == "!" and len(words) > 1:
        words = words[1:]
    if len(words) == 1:
        return True
    if len(words) == 2:
        return words[0].form is None and words[0].text in _TEST_UNARY
    return len(words) == 3 and words[1].form is None and words[1].text in _TEST_BINARY

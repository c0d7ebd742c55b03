"""The arguments of a call, read by the roles that its specification gives them: words for the judge, or why not."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from deployments.gate.canonical import Canonical, Rejected, canonical_object, canonicalise
from deployments.gate.grammar import class_of
from deployments.gate.judge import Finding, Judge
from deployments.gate.paths import normal_path
from deployments.gate.shell.atoms import Unprovable, Word, check_characters
from deployments.gate.tables import Sensitivity
from deployments.gate.tool_specs import TYPES, Raised, ToolBase
from deployments.ports import JsonValue, Risk

MAX_GLOBS = 64
MAX_PATH = 4096
_NUMBER = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,9})?")
_FLAGS = frozenset({"true", "false"})
_BRACED = re.compile(r"\{([^{}]*)\}")
# Between patterns in one argument: clients split them at blanks and commas, but not inside braces.
_BETWEEN = re.compile(r"[\s,]+(?![^{}]*\})")

Values = Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader makes of a call: its findings, never empty, and what it would change, readable."""

    findings: tuple[Finding, ...]
    preview: str | None = None


class Misfit(Exception):
    """The arguments are not those of the tool; the text says how, without any part of them."""


@dataclass(slots=True)
class Words:
    """Words for the judge, by role, and the commands among them."""

    judge: Judge
    judged: list[tuple[str, Word]] = field(default_factory=list[tuple[str, Word]])
    commands: list[str] = field(default_factory=list[str])


def fault(rule: str, why: str, risk: Risk = Risk.R2) -> Finding:
    """A finding that no rule of the bundle made."""
    return Finding(risk, False, rule, (f"{rule}: {why}",), "")


def present(values: Values) -> dict[str, JsonValue]:
    """The arguments that are there: null is what some models write for one that they leave out."""
    return {name: value for name, value in values.items() if value is not None}


def one_text(values: Values, names: Sequence[str], what: str) -> str:
    """The one of the arguments `names` that is there, as text; `Misfit` when there is another number of them."""
    found = optional_text(values, names, what)
    if found is None:
        raise Misfit(f"the call does not name exactly one {what}")
    return found


def optional_text(values: Values, names: Sequence[str], what: str) -> str | None:
    """The same, None when there is none."""
    given = [values[name] for name in names if name in values]
    if len(given) > 1:
        raise Misfit(f"the call does not name exactly one {what}")
    if given and not isinstance(given[0], str):
        raise Misfit(f"the {what} is not text")
    return given[0] if given and isinstance(given[0], str) else None


def check_known(values: Values, known: Sequence[str]) -> None:
    """`Misfit` for an argument that is not among `known`."""
    if values.keys() - set(known):
        raise Misfit("the call has an argument that is not known")


def read_fields(values: Values, roles: Mapping[str, str], words: Words) -> None:
    """Put the arguments that have a role into `words`; `Misfit` for one of another type."""
    for name, value in values.items():
        role = roles.get(name)
        if role is None:
            continue
        if role.endswith("*"):
            for each in value if isinstance(value, list) else [value]:
                _read(role[:-1], each, words)
        else:
            _read(role, value, words)


def read_nested(values: Values, nested: Mapping[str, Mapping[str, str]], words: Words) -> None:
    """The same for arguments that hold an object, or its JSON text under the same strict rules."""
    for name, roles in nested.items():
        value = values.get(name)
        if value is None:
            continue
        decoded = _object(value)
        if not isinstance(decoded, Canonical):
            raise Misfit("an argument does not hold a JSON object in a form that is read in one way only")
        inner = present(decoded.value)
        check_known(inner, tuple(roles))
        read_fields(inner, roles, words)


def _object(value: JsonValue) -> Canonical | Rejected | None:
    if isinstance(value, str):
        return canonicalise(value)
    return canonical_object(value) if isinstance(value, dict) else None


def option_findings(judge: Judge, spec: ToolBase, values: Values) -> list[Finding]:
    """What the further arguments of a call make of it; `Misfit` for one of another type."""
    words = Words(judge)
    read_fields(values, spec.options, words)
    found: list[Finding] = []
    if words.judged:
        found.append(judge.fields(words.judged, class_of("R0"), "has arguments that say how", False))
    for text in words.commands:
        found += judge.script(text)
    return found + [_raised(judge, each) for name, each in spec.raises.items() if _counts(each, values.get(name))]


def path_words(judge: Judge, role: str, text: str) -> list[tuple[str, Word]]:
    """A path in the role `file` or `written`; not known when it is not plain.

    Some systems do not tell capitals from small letters: there `.GIT/hooks` is `.git/hooks`, and is judged as it too.
    """
    if not is_plain(text):
        return [(role, Word(None))]
    return [(role, Word(path)) for path in (text, *_folded(judge, role, text))]


def _folded(judge: Judge, role: str, text: str) -> list[str]:
    small = text.lower()
    if small == text:
        return []
    kinds = ("path", "written") if role == "written" else ("path",)
    places = [normal_path(directory, small) for directory in judge.directories]
    found = [judge.bundle.target(kind, place) for kind in kinds for place in places if place is not None]
    inside = not text.startswith(("/", "~"))
    telling = any(
        each is not None and (each.class_of is not None or each.sensitivity is Sensitivity.SENSITIVE) for each in found
    )
    return [small] if inside or telling else []


def is_file(text: str) -> bool:
    """False for a path that names a directory for sure."""
    return bool(text) and text.rstrip("/").rsplit("/", 1)[-1] not in {"", ".", "..", "~"} and not text.endswith("/")


def _read(role: str, value: JsonValue, words: Words) -> None:
    if role in TYPES:
        if not _has_type(role, value):
            raise Misfit("an argument has another type than the tool's")
        return
    if not isinstance(value, str):
        # What is judged is text: anything else is not known.
        words.judged.append((_base(role), Word(None)))
        return
    match role:
        case "file" | "written":
            words.judged += path_words(words.judge, role, value)
        case "glob":
            words.judged += _glob_words(value)
        case "command":
            words.commands.append(value)
        case _:
            words.judged.append((role, Word(value)))


def _base(role: str) -> str:
    return "file" if role == "glob" else role


def _has_type(role: str, value: JsonValue) -> bool:
    match role:
        case "text":
            return isinstance(value, str)
        case "texts":
            return isinstance(value, str) or (isinstance(value, list) and all(isinstance(each, str) for each in value))
        case "number":
            return (isinstance(value, int | float) and not isinstance(value, bool)) or (
                isinstance(value, str) and _NUMBER.fullmatch(value) is not None
            )
        case "flag":
            return isinstance(value, bool) or (isinstance(value, str) and value.lower() in _FLAGS)
        case _:
            return True


def is_plain(text: str) -> bool:
    """True for a path that every system takes for the same one: no foreign separator, nothing invisible."""
    if not text or len(text) > MAX_PATH or "\\" in text or "\n" in text or "\t" in text or text != text.strip():
        return False
    if "$" in text or "`" in text or text.startswith("file:") or "%2e" in text.lower() or "%2f" in text.lower():
        return False
    # Full-width dots and slashes, and letters that hold some: what one system normalises is another name on the next.
    folded = unicodedata.normalize("NFKC", text)
    if any(folded.count(char) != text.count(char) for char in "./\\~:"):
        return False
    try:
        check_characters(text)
    except Unprovable:
        return False
    return True


def _glob_words(text: str) -> list[tuple[str, Word]]:
    """Patterns of file names: what they cover is read. Excluded ones cover nothing."""
    found: list[tuple[str, Word]] = []
    for piece in _BETWEEN.split(text.strip()):
        if not piece or piece.startswith("!"):
            continue
        if not is_plain(piece):
            return [("file", Word(None))]
        expanded = _expanded(piece)
        if expanded is None:
            return [("file", Word(None))]
        found += [("file", Word(each, glob=any(char in each for char in "*?["))) for each in expanded]
    return found


def _expanded(pattern: str) -> list[str] | None:
    """The patterns that flat braces stand for; None when there are too many, or braces in braces."""
    parts = _BRACED.split(pattern)
    if any(char in part for part in parts for char in "{}"):
        return None
    choices = [part.split(",") if place % 2 else [part] for place, part in enumerate(parts)]
    size = 1
    for each in choices:
        size *= len(each)
    if size > MAX_GLOBS:
        return None
    return ["".join(combination) for combination in product(*choices)]


def _counts(raised: Raised, value: JsonValue) -> bool:
    """True when an argument is there with a value that is not one of the harmless ones. `1` is not `true`."""
    return value is not None and not any(type(value) is type(plain) and value == plain for plain in raised.unless)


def _raised(judge: Judge, raised: Raised) -> Finding:
    return judge.fields((), class_of(raised.class_), raised.reason, False)

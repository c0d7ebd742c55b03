"""Writing TOML, YAML, JSON and shell so that any value survives."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import yaml

Scalar: TypeAlias = str | int | bool
Value: TypeAlias = "Scalar | Sequence[Value] | Mapping[str, Value]"

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")


def json_text(value: Value) -> str:
    """Indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def yaml_text(value: Value, comment: str) -> str:
    """Block style YAML in the order given, under a comment of one line."""
    return f"# {comment}\n" + yaml.safe_dump(value, sort_keys=False, width=120)


def toml_text(table: Mapping[str, "Scalar | Sequence[str] | Mapping[str, Value]"], comment: str) -> str:
    """A TOML document: plain values first, then one section per table, in the order given, under a comment."""
    lines = [f"# {comment}"]
    _section(lines, (), table)
    return "\n".join(lines) + "\n"


def _section(lines: list[str], path: tuple[str, ...], table: Mapping[str, Value]) -> None:
    plain = {name: value for name, value in table.items() if not isinstance(value, Mapping)}
    if path and plain:
        lines += ["", f"[{'.'.join(map(_key, path))}]"]
    lines += [f"{_key(name)} = {_value(value)}" for name, value in plain.items()]
    for name, value in table.items():
        if isinstance(value, Mapping):
            _section(lines, (*path, name), value)


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else _value(name)


def _value(value: Value) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case str():
            # A JSON string is a basic string of TOML, but for DEL, which JSON leaves as it is.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case Mapping():
            raise TypeError("a table has no place inside an array here")
        case Sequence():
            return f"[{', '.join(map(_value, value))}]"


def exports(variables: Mapping[str, str], references: Mapping[str, str], comment: str) -> str:
    """Lines for a POSIX shell: `variables` with their values, `references` with the variable each one repeats."""
    lines = [f"# {comment}"]
    lines += [f'export {name}="${{{other}}}"' for name, other in references.items() if name != other]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    return "\n".join(lines) + "\n"

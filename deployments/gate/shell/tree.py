"""The fields of shfmt's syntax tree, read by allowlist: a field that is not expected makes a node unknown."""

from typing import TypeAlias, cast

from deployments.gate.shell.atoms import Unprovable
from deployments.ports import JsonValue

Node: TypeAlias = dict[str, JsonValue]


# Builtins that set the variables they are given. They are read only where they are written plainly.
SETTERS = frozenset({"read", "mapfile", "readarray", "unset"})
ASSIGNING = frozenset({"=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>="})
COUNTING = frozenset({"++", "--"})


def last_is_call(statement: Node) -> bool:
    """True when what a statement prints is what its last simple command prints."""
    command = statement.get("Cmd")
    if not isinstance(command, dict):
        return False
    if command.get("Type") == "CallExpr":
        return True
    return command.get("Type") == "BinaryCmd" and command.get("Op") in {"|", "|&"} and last_is_call(child(command, "Y"))


def names_set(value: JsonValue, counting: bool = True) -> set[str]:
    """Every name that anything below may set: assignments, calculations, loops, and whatever `read` is given.

    Without `counting` less what calculations set: `i=$((...))`, `((i++))`, `let`.
    """
    found: set[str] = set()
    if isinstance(value, list):
        for item in value:
            found |= names_set(item, counting)
    elif isinstance(value, dict):
        name = value.get("Name")
        named = isinstance(name, dict) and isinstance(name.get("Value"), str)
        if named and (counting or not _calculated(value)):
            found.add(text_of(child(value, "Name"), "Value"))
        arguments = value.get("Args")
        if value.get("Type") == "CallExpr" and isinstance(arguments, list):
            literals = [literal(word) for word in arguments]
            if not SETTERS.isdisjoint(literals):
                found |= {word for word in literals if word is not None}
        operator = value.get("Op")
        if counting and value.get("Type") in {"BinaryArithm", "UnaryArithm"} and operator in ASSIGNING | COUNTING:
            found |= {named for named in [literal(value.get("X"))] if named is not None}
        expansion = value.get("Exp")
        if isinstance(expansion, dict) and expansion.get("Op") in {":=", "="}:
            found.add(text_of(child(value, "Param"), "Value"))
        for item in value.values():
            found |= names_set(item, counting)
    return found


def _calculated(assign: Node) -> bool:
    """True for `NAME=$((...))`."""
    value = assign.get("Value")
    parts = value.get("Parts") if isinstance(value, dict) else None
    if assign.keys() & {"Append", "Array", "Index"} or not isinstance(parts, list) or len(parts) != 1:
        return False
    return isinstance(parts[0], dict) and parts[0].get("Type") == "ArithmExp"


def literal(word: JsonValue) -> str | None:
    """The raw text of a word that is one literal, quoted by single quotes or not at all."""
    parts = word.get("Parts") if isinstance(word, dict) else None
    if isinstance(parts, list) and len(parts) == 1 and isinstance(parts[0], dict):
        value = parts[0].get("Value")
        return value if isinstance(value, str) else None
    return None


def _position(value: JsonValue) -> bool:
    return (
        isinstance(value, dict) and value.keys() <= {"Offset", "Line", "Col"} and isinstance(value.get("Offset"), int)
    )


def fields(node: Node, *allowed: str) -> Node:
    """The fields of a node that mean something; a field that is not expected makes the node unknown."""
    found = {
        key: value
        for key, value in node.items()
        if key not in {"Type", "Comments"} and not key.endswith("Last") and not _position(value)
    }
    for key in found:
        if key not in allowed:
            raise Unprovable(f"the shell construct {node.get('Type', 'statement')} with {key}")
    return found


def child(parts: Node, key: str) -> Node:
    """The node in a field that must hold one."""
    value = parts.get(key)
    if not isinstance(value, dict):
        raise Unprovable("an unreadable syntax tree")
    return value


def children(parts: Node, key: str) -> list[Node]:
    """The nodes in a field that holds a list of them, or is left out."""
    value = parts.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Unprovable("an unreadable syntax tree")
    return cast("list[Node]", value)


def text_of(node: Node, key: str) -> str:
    """The text in a field that must hold some."""
    value = node.get(key)
    if not isinstance(value, str):
        raise Unprovable("an unreadable syntax tree")
    return value

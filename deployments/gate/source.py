"""A YAML file of a bundle, read without surprises: the one door from text to values for everything in a policy.

Whoever can write a bundle can stop a gate from starting, and should be able to do no more. So the text is measured
before it is built: its size, its depth (the C parser overflows its stack on deep nesting), and how large it becomes
when every alias is written out. Refused besides: a key given twice, tags, values that YAML guesses to be dates, and
keys that it guesses to be anything but text. A merge key takes over one mapping, and what is said beside it counts.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import ValidationError

from deployments.gate.grammar import BundleError, Strict

MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 32
MAX_VALUES = 1_000_000
MAX_FAULTS = 10

# libyaml's parser where PyYAML was built with it: the bundle is large, and every replica reads it at its start.
_SafeLoader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "str", "int", "float", "bool", "null")}
_MERGE = "tag:yaml.org,2002:merge"
_TEXT = "tag:yaml.org,2002:str"
_Model = TypeVar("_Model", bound=Strict)


def read_source(path: Path) -> Mapping[str, Any]:
    """The mapping in the file `path`; `BundleError` for anything else, with the line where it went wrong."""
    try:
        raw = path.read_bytes() if path.stat().st_size <= MAX_BYTES else None
    except OSError:
        raise BundleError(f"there is no bundle file {path}") from None
    if raw is None:
        raise BundleError(f"{path.name} is larger than {MAX_BYTES // 1024} KiB")
    try:
        text = raw.decode("utf-8")
        _check_depth(text, path.name)
        loader = cast(Any, _SafeLoader(text))
        node: object = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise BundleError(f"{path.name} holds no mapping")
        _check_nodes(node, path.name)
        return cast("dict[str, Any]", loader.construct_document(node))
    except UnicodeDecodeError:
        raise BundleError(f"{path.name} is not UTF-8") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise BundleError(f"{path.name} is not readable YAML: {' '.join(str(error).split())}") from error


def parse(loaded: Mapping[str, Any], model: type[_Model], name: str) -> _Model:
    """What `read_source` read from the file `name`, as `model`; `BundleError` with the first faults by their place."""
    try:
        # JSON mode: YAML has lists where the model has tuples; strictness about scalars stays.
        return model.model_validate_json(json.dumps(loaded, allow_nan=False))
    except ValueError as error:
        if not isinstance(error, ValidationError):
            raise BundleError(f"{name} holds a number that is none: {error}") from error
        found = error.errors(include_url=False)
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in found[:MAX_FAULTS]]
        more = f"; and {len(found) - MAX_FAULTS} more" if len(found) > MAX_FAULTS else ""
        raise BundleError(f"{name}: {'; '.join(faults)}{more}") from None


def _check_depth(text: str, name: str) -> None:
    """By events, which take no stack, before anything is built."""
    depth = 0
    events: Iterator[yaml.Event] = cast(Any, yaml).parse(text, Loader=_SafeLoader)
    for count, event in enumerate(events):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise BundleError(f"{name} is nested deeper than {MAX_DEPTH}")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if count > MAX_VALUES:
            raise BundleError(f"{name} holds more than {MAX_VALUES} values")


def _check_nodes(root: yaml.Node, name: str) -> None:
    """Every node once; its size is that of the whole it stands for, however often an alias repeats it."""
    sizes: dict[int, int] = {}
    entered: set[int] = set()
    waiting: list[tuple[yaml.Node, bool]] = [(root, False)]
    while waiting:
        node, left = waiting.pop()
        if id(node) in sizes:
            continue
        children = _children(node)
        if left:
            sizes[id(node)] = 1 + sum(sizes[id(child)] for child in children)
            if sizes[id(node)] > MAX_VALUES:
                raise BundleError(f"{name} holds more than {MAX_VALUES} values, its aliases written out")
            continue
        if id(node) in entered:
            raise BundleError(f"{name}: {_line(node)} contains itself")
        entered.add(id(node))
        _check_node(node, name)
        waiting.append((node, True))
        waiting += [(child, False) for child in children if id(child) not in sizes]


def _check_node(node: yaml.Node, name: str) -> None:
    if node.tag not in _TAGS | {_MERGE}:
        kind = node.tag.rpartition(":")[2]
        raise BundleError(f"{name}: {_line(node)} would be read as {kind!r}; quote it if it is text")
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in cast("list[tuple[yaml.Node, yaml.Node]]", node.value):
        if key.tag == _MERGE and not isinstance(value, yaml.MappingNode):
            raise BundleError(f"{name}: {_line(key)} merges something else than one mapping")
        if key.tag != _MERGE and (key.tag != _TEXT or not isinstance(key.value, str)):
            raise BundleError(f"{name}: {_line(key)} has a key that is not text; quote it")
        if key.value in seen:
            raise BundleError(f"{name}: {_line(key)}: the key '{key.value[:60]}' is given twice")
        seen.add(key.value)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in cast("list[tuple[yaml.Node, yaml.Node]]", node.value) for part in pair]
    return cast("list[yaml.Node]", node.value) if isinstance(node, yaml.SequenceNode) else []


def _line(node: yaml.Node) -> str:
    mark = cast("yaml.Mark | None", node.start_mark)
    return "a value" if mark is None else f"line {mark.line + 1}"

"""A tenant's overlay over the policy: a deep merge that remembers which keys it set."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

from router.documents import PolicyError, flag, listing, mapping, text

OVERLAY_KEYS: Final = frozenset(
    {"pin", "deny", "default", "review", "learning", "budget", "escalation", "cascade", "rules"}
)
_OWN_KEYS: Final = frozenset({"pin", "deny"})
_WHOLE: Final = frozenset({"when", "effect"})  # half of a condition merged into another one is a third one


def merged(
    document: Mapping[str, object], overlay: Mapping[str, object], where: str
) -> tuple[Mapping[str, object], tuple[str, ...]]:
    """The document with the overlay in it, and the keys that the overlay set, as dotted paths in sorted order.

    An overlay names rules by their id: what it says of a rule changes that one, `enabled: false` drops it, and a rule
    with an unknown id is added. `pin` and `deny` belong to the overlay alone. Raises `PolicyError` for another shape.
    """
    made = {key: copy.deepcopy(value) for key, value in document.items() if key != "rules"}
    paths = [key for key in overlay if key in _OWN_KEYS]
    for key, value in overlay.items():
        if key not in _OWN_KEYS and key != "rules":
            paths += _merge(made, key, value, key)
    rules = {_id_of(rule): dict(cast("Mapping[str, object]", rule)) for rule in _listed(document)}
    for key, raw in mapping(overlay.get("rules", {}), f"{where}.rules").items():
        rule_id = text(key, f"{where}.rules", 64)
        change = mapping(raw, f"{where}.rules.{rule_id}")
        if not flag(change.get("enabled", True), f"{where}.rules.{rule_id}.enabled"):
            if rule_id not in rules:
                raise PolicyError(f"{where}.rules: there is no rule {rule_id!r} to drop")
            del rules[rule_id]
            paths.append(f"rules.{rule_id}.enabled")
            continue
        if "id" in change:
            raise PolicyError(f"{where}.rules.{rule_id}: unknown key 'id'")
        rule: dict[str, Any] = copy.deepcopy(rules.get(rule_id, {"id": rule_id}))
        for name, value in change.items():
            if name != "enabled":
                paths += _merge(rule, name, value, f"rules.{rule_id}.{name}")
        rules[rule_id] = rule
    return {**made, "rules": [*rules.values()]}, tuple(sorted(paths))


def _listed(document: Mapping[str, object]) -> list[object]:
    return [*listing(document["rules"], "policy.rules")]


def _id_of(rule: object) -> str:
    return str(cast("Mapping[str, object]", rule)["id"])  # compiled before: it is a mapping with an id


def _merge(into: dict[str, Any], key: str, value: object, path: str) -> Iterator[str]:
    """Set `key`, deeply where both sides are mappings; yields the paths that were set."""
    before: object = into.get(key)
    if isinstance(value, Mapping) and isinstance(before, Mapping) and key not in _WHOLE:
        inner = dict(cast("Mapping[str, object]", before))
        for name, part in cast("Mapping[str, object]", value).items():
            yield from _merge(inner, str(name), part, f"{path}.{name}")
        into[key] = inner
        return
    into[key] = copy.deepcopy(cast("object", value))
    yield path

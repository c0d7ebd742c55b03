"""All rules by name. A rule is a function of a rendered overlay that yields what is wrong with it."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType

from tests.manifests import rules_operator, rules_pods, rules_serve
from tests.manifests.kube import World

Rule = Callable[[World], Iterator[str]]


def _of(module: ModuleType) -> Iterator[tuple[str, Rule]]:
    for name, each in inspect.getmembers(module, inspect.isfunction):
        rule = each.__annotations__ == {"world": World, "return": Iterator[str]}
        if rule and each.__module__ == module.__name__ and not name.startswith("_"):
            yield name, each


RULES: Mapping[str, Rule] = {
    name: rule for module in (rules_operator, rules_serve, rules_pods) for name, rule in _of(module)
}

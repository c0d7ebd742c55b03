"""The manifests keep every rule, and every rule fails on manifests that break it."""

import pytest

from tests.manifests.kube import KUBERAY, OVERLAYS, World, load
from tests.manifests.mutations import MUTATIONS, Mutation, mutated
from tests.manifests.rules import RULES

WORLDS = {name: World(load(KUBERAY / "rendered" / f"{name}.yaml")) for name in OVERLAYS}


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("rule", RULES)
def test_an_overlay_keeps_the_rule(overlay: str, rule: str) -> None:
    assert list(RULES[rule](WORLDS[overlay])) == []


def test_every_rule_has_something_that_breaks_it() -> None:
    assert MUTATIONS.keys() == RULES.keys()


@pytest.mark.parametrize(
    ("rule", "mutation"),
    [
        pytest.param(name, mutation, id=f"{name}-{at}")
        for name, mutations in MUTATIONS.items()
        for at, mutation in enumerate(mutations)
    ],
)
def test_what_breaks_a_rule_is_found(rule: str, mutation: Mutation) -> None:
    assert list(RULES[rule](mutated(WORLDS["l"], mutation)))

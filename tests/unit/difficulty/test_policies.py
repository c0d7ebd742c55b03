from pathlib import Path

import pytest
import yaml

from deployments.difficulty.policies import PolicySource
from router.policy import ROUTING_V1, PolicyError, Unmet, default_policy, parse_policy
from router.types import Tier
from serve_app.config import ROOT, load_serve_file

OTHER = {**ROUTING_V1, "name": "routing-other"}


def write(path: Path, document: object) -> None:
    """As an operator's tool does: a new file takes the old one's place."""
    fresh = path.with_suffix(".new")
    fresh.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    fresh.replace(path)


def a_source(path: Path) -> PolicySource:
    write(path, ROUTING_V1)
    return PolicySource(ROUTING_V1, path)


def test_a_changed_file_takes_over(tmp_path: Path):
    path = tmp_path / "policy.yaml"
    source = a_source(path)
    assert not source.look()
    write(path, OTHER)
    assert source.look()
    assert source.current.name == "routing-other"
    assert not source.look()


def test_the_same_policy_in_other_words_is_no_change(tmp_path: Path):
    path = tmp_path / "policy.yaml"
    source = a_source(path)
    write(path, yaml.safe_dump(ROUTING_V1, default_flow_style=True))
    assert not source.look()
    assert source.current.digest == default_policy().digest


@pytest.mark.parametrize(
    "document",
    [{**OTHER, "unknown": 1}, {"version": 1}, "- a", "a: [", "", "\x00", "&a [*a]"],
    ids=["unknown-key", "incomplete", "list", "no-yaml", "empty", "control", "recursive"],
)  # fmt: skip
def test_a_bad_file_changes_nothing_and_says_why_until_a_good_one_comes(tmp_path: Path, document: object):
    path = tmp_path / "policy.yaml"
    source = a_source(path)
    write(path, document)
    assert not source.look()
    assert source.current.digest == default_policy().digest
    assert source.refused
    path.unlink()
    assert not source.look()
    write(path, OTHER)
    assert source.look()
    assert source.refused is None


def test_without_a_file_nothing_is_looked_for():
    source = PolicySource(ROUTING_V1)
    assert not source.look()
    with pytest.raises(PolicyError):
        PolicySource({"version": 1})


def test_the_policy_without_120b_differs_from_v1_in_nothing_else():
    folder = ROOT / "configs" / "policies"
    usual, without = (yaml.safe_load((folder / f"routing-{name}.yaml").read_text()) for name in ("v1", "20b"))
    assert without["without_strong"]["unserved"] == {"safety": "base", "rules": "base"}
    assert without["without_strong"]["down"] == usual["without_strong"]["down"]
    changed = {"name": without["name"], "without_strong": without["without_strong"]}
    assert without == {**usual, **changed}
    assert parse_policy(without).without_strong.unserved_safety is Unmet.BASE


@pytest.mark.parametrize("profile", ["local", "s", "m", "l"])
def test_a_profile_without_120b_takes_the_policy_without_120b(profile: str):
    app = load_serve_file(ROOT / "configs" / f"serve.{profile}.yaml").app
    has_strong = any(model.tier is Tier.STRONG for model in app.models)
    assert (app.routing_policy == "configs/policies/routing-20b.yaml") is not has_strong

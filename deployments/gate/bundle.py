"""Loading a policy bundle: read, compiled, and every rule's examples run before one of them counts."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from deployments.gate.classify import Classifier
from deployments.gate.policy import Bundle, read_policy
from deployments.gate.shell.reader import ShellReader
from deployments.gate.specs import BundleError, RuleSpec, class_of
from deployments.gate.tables import Base
from deployments.ports import Risk

ROOT = Path(__file__).resolve().parents[2]
BUNDLE_DIRECTORY = ROOT / "configs" / "policies"
DEFAULT_BUNDLE = "default"
_THREADS = 4
EXAMPLE_TIMEOUT_S = 10.0  # more than a call gets: a slow start must not look like a bad bundle


def bundle_path(name_or_path: str | Path) -> Path:
    """Where a bundle is: the name of one in `configs/policies/`, or a file, also relative to the installation."""
    given = Path(name_or_path)
    if given.suffix not in {".yaml", ".yml"}:
        return BUNDLE_DIRECTORY / f"{name_or_path}.yaml"
    return given if given.is_file() else ROOT / given


def load_bundle(name_or_path: str | Path = DEFAULT_BUNDLE) -> Bundle:
    """The bundle, after all of its checks and examples passed; else `BundleError` with the faults."""
    bundle = read_policy(bundle_path(name_or_path))
    check_examples(bundle)
    return bundle


def check_examples(bundle: Bundle) -> None:
    """Run every example of every rule, or raise `BundleError` with all that fail."""
    classifier = Classifier(bundle, ShellReader(EXAMPLE_TIMEOUT_S))
    with ThreadPoolExecutor(_THREADS) as pool:  # each example waits for a process of shfmt
        found = pool.map(partial(_example_faults, classifier), bundle.rule_specs)
        faults = [fault for each in found for fault in each]
    if faults:
        raise BundleError(f"bundle '{bundle.name}': " + "; ".join(faults[:20]))


def _example_faults(classifier: Classifier, rule: RuleSpec) -> list[str]:
    ceiling = _ceiling(rule)
    faults: list[str] = []
    for line in rule.match:
        found = classifier.classify("shell", {"command": line})
        if rule.id not in found.rules or found.risk is not ceiling:
            faults.append(f"rule {rule.id} should make '{line}' {ceiling.value}, it is {found.risk.value}")
    for line in rule.not_match:
        found = classifier.classify("shell", {"command": line})
        if rule.id in found.rules and found.risk.rank <= ceiling.rank:
            faults.append(f"rule {rule.id} should not let '{line}' pass as {found.risk.value}")
    return faults


def _ceiling(rule: RuleSpec) -> Risk:
    base = class_of(rule.class_).nonprod
    return Risk.R2 if base in {Base.UNKNOWN, Base.OPAQUE} else Risk(base.value)

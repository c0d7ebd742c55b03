"""Loading a policy bundle: read, compiled, and every rule's examples run before one of them counts."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from deployments.gate.classify import Classifier
from deployments.gate.grammar import BundleError, class_of
from deployments.gate.marks import is_marked, mark
from deployments.gate.policy import BUNDLE_DIRECTORY, ROOT, Bundle, read_policy
from deployments.gate.shell.reader import ShellReader
from deployments.gate.signature import check_signature
from deployments.gate.specs import RuleSpec
from deployments.gate.tables import Base
from deployments.gate.tools.examples import tool_example_faults
from deployments.ports import GateProfile, Risk

__all__ = ["BUNDLE_DIRECTORY", "DEFAULT_BUNDLE", "bundle_path", "check_examples", "load_bundle"]

DEFAULT_BUNDLE = "default"
_THREADS = 4
EXAMPLE_TIMEOUT_S = 10.0  # more than a call gets: a slow start must not look like a bad bundle
MAX_FAULTS = 20


def bundle_path(name_or_path: str | Path) -> Path:
    """Where a bundle is: the name of one in `configs/policies/`, or a file, also relative to the installation."""
    given = Path(name_or_path)
    if given.suffix not in {".yaml", ".yml"}:
        return BUNDLE_DIRECTORY / f"{name_or_path}.yaml"
    return given if given.is_file() else ROOT / given


def load_bundle(
    name_or_path: str | Path = DEFAULT_BUNDLE, marks: Path | None = None, key: Path | None = None
) -> Bundle:
    """The bundle, after all of its checks and examples passed; else `BundleError` with the faults.

    In the directory `marks` it is remembered which bundles passed on this machine under this code: of these the
    examples are not run again. With `key`, the file of an Ed25519 public key, an unsigned bundle is refused.
    """
    path = bundle_path(name_or_path)
    bundle = read_policy(path)
    if key is not None:
        check_signature(bundle.policy_digest, path, key)
    _verify(bundle, marks)
    return bundle


def _verify(bundle: Bundle, marks: Path | None) -> None:
    """The examples of a bundle, after those of the one that it extends."""
    if marks is not None and is_marked(marks, bundle.policy_digest):
        return
    if bundle.base is not None:
        _verify(bundle.base, marks)
    check_examples(bundle)
    if marks is not None:
        mark(marks, bundle.policy_digest)


def check_examples(bundle: Bundle) -> None:
    """Run every example of the bundle's own rules, or raise `BundleError` with the first that fail."""
    faults = example_faults(bundle)
    if faults:
        more = f"; and {len(faults) - MAX_FAULTS} more" if len(faults) > MAX_FAULTS else ""
        raise BundleError(f"bundle '{bundle.name}': {'; '.join(faults[:MAX_FAULTS])}{more}")


def example_faults(bundle: Bundle) -> list[str]:
    """Every example of the bundle's own rules that does not come out as it should."""
    reader = ShellReader(EXAMPLE_TIMEOUT_S)
    reader.learn(line for rule in bundle.own_rules for line in (*rule.match, *rule.not_match, *rule.not_covered))
    classifier = Classifier(bundle, reader)
    with ThreadPoolExecutor(_THREADS) as pool:  # each example waits for a process of shfmt
        found = pool.map(partial(_rule_faults, classifier), bundle.own_rules)
        called = pool.map(partial(tool_example_faults, classifier), bundle.own_tools)
        return [fault for each in (*found, *called) for fault in each]


def count_examples(bundle: Bundle) -> int:
    """How many examples the bundle's own rules have."""
    rules = sum(len(rule.match) + len(rule.not_match) + len(rule.not_covered) for rule in bundle.own_rules)
    return rules + sum(len(tool.examples) for tool in bundle.own_tools)


def _rule_faults(classifier: Classifier, rule: RuleSpec) -> list[str]:
    ceiling = ceiling_of(rule)
    faults: list[str] = []
    for line in rule.match:
        found = classifier.classify("shell", {"command": line})
        if rule.id not in found.rules or found.risk is not ceiling:
            faults.append(f"rule {rule.id} should make '{line}' {ceiling.value}, it is {found.risk.value}")
    for line in rule.not_match:
        found = classifier.classify("shell", {"command": line})
        if rule.id in found.rules and found.risk.rank <= ceiling.rank:
            faults.append(f"rule {rule.id} should not let '{line}' pass as {found.risk.value}")
    for line in rule.not_covered:
        if classifier.classify("shell", {"command": line}, GateProfile.CODING).covered:
            faults.append(f"rule {rule.id} should not let a standing plan cover '{line}'")
    return faults


def ceiling_of(rule: RuleSpec) -> Risk:
    """The class that the rule's examples have: outside of production, touching nothing in particular."""
    base = class_of(rule.class_).nonprod
    return Risk.R2 if base in {Base.UNKNOWN, Base.OPAQUE} else Risk(base.value)

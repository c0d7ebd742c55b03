"""From findings to a classification: each rule of the classifier alone, on the small bundle."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest

from deployments.gate.circumstances import PLAIN, Circumstances
from deployments.gate.classify import MAX_REASONS, MAX_TOOL_NAME, Classification, Classifier
from deployments.gate.findings import Finding
from deployments.gate.name_settings import TenantGateSettings
from deployments.gate.policy import Bundle, read_policy
from deployments.gate.shell.reader import ShellReader
from deployments.gate.tables import Outcome
from deployments.gate.tenant_names import with_tenants
from deployments.gate.tools.arguments import Reading
from deployments.ports import GateProfile, JsonValue, Risk
from tests.unit.gate.tiny import tiny, write

READER = ShellReader(timeout_s=120.0)
DIGEST = "5" * 64
TOOLS: list[dict[str, Any]] = [
    {"adapter": "input", "names": ["type"], "input": ["chars"], "interrupts": ["\x03"], "class": "R1",
     "reason": "interrupts", "examples": [{"arguments": {"chars": ""}, "risk": "R0"}]},
    {"adapter": "edit", "names": ["Edit"], "path": ["path"], "content": ["text"], "class": "R2", "reason": "edits",
     "standing": True, "examples": [{"arguments": {"path": "a", "text": "b"}, "risk": "R2", "covered": True}]},
    {"adapter": "patch", "names": ["apply_patch"], "patch": ["patch"], "class": "R2", "reason": "edits",
     "standing": True, "examples": [{"arguments": {"patch": "x"}, "risk": "R2"}]},
    {"adapter": "http", "names": ["fetch"], "url": ["url"],
     "examples": [{"arguments": {"url": "http://localhost/"}, "risk": "R0"}]},
    {"adapter": "kubernetes", "names": ["apply"], "object": ["object"], "class": "R2", "reason": "writes objects",
     "examples": [{"arguments": {"object": "x"}, "risk": "R3"}]},
    {"adapter": "sql", "names": ["query"], "query": ["sql"], "dialect": "sql-postgres", "environment": "nonprod",
     "sensitive": False, "reason": "asks", "examples": [{"arguments": {"sql": "select 1"}, "risk": "R0"}]},
    {"adapter": "code", "names": ["run"], "code": ["code"], "reason": "runs code",
     "examples": [{"arguments": {"code": "x"}, "risk": "R2"}]},
    {"adapter": "fields", "names": ["pinned"], "schema": [DIGEST], "fields": {"id": "name"}, "class": "R0",
     "reason": "reads", "examples": [{"arguments": {"id": "a"}, "risk": "R0"}]},
]  # fmt: skip
PATCH = "*** Begin Patch\n*** Add File: a.py\n+x\n*** End Patch"


@cache
def bundle() -> Bundle:
    said = tiny()
    said["targets"] |= {"namespace": [{"match": ["@default", "lab"], "env": "nonprod"}],
                        "resource": [{"match": ["configmap"], "env": "nonprod"}]}  # fmt: skip
    said["tools"] += TOOLS
    said["raises"] = [
        {"id": "call.recovered", "when": {"recovered": True}, "to": {"R0": "R2", "R1": "R2"}, "reason": "was repaired"},
        {"id": "call.outside", "when": {"untrusted": True}, "to": {"R1": "R2"}, "keeps_standing": True,
         "reason": "text from outside"},
        {"id": "call.agent", "when": {"agent": ["odd"]}, "to": {"R1": "R2"}, "reason": "an odd agent"},
        {"id": "call.rule", "when": {"rule": ["b.two"], "tenant": ["acme"]}, "to": {"R0": "R1"}, "reason": "by rule"},
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as directory:
        return read_policy(write(Path(directory), said))


class Found(Classifier):
    """Finds in every call what the test wrote down, or fails with it."""

    def __init__(self, *findings: Finding | Exception, preview: str | None = None) -> None:
        super().__init__(bundle(), READER)
        self.findings, self.preview = findings, preview

    def _findings(self, situation: object, values: Mapping[str, JsonValue]) -> Reading:
        del situation, values
        faults = [each for each in self.findings if isinstance(each, Exception)]
        if faults:
            raise faults[0]
        return Reading(tuple(each for each in self.findings if isinstance(each, Finding)), self.preview)


def finding(risk: str, rule: str | None = "a.one", covered: bool = False, reasons: tuple[str, ...] = ()) -> Finding:
    return Finding(Risk(risk), covered, rule, reasons or (f"{rule}: {risk}",), f"run {risk}")


def judged(*findings: Finding, profile: str = "ops", about: Circumstances = PLAIN) -> Classification:
    return Found(*findings).classify("shell", "{}", GateProfile(profile), about)


@pytest.mark.parametrize("order", [1, -1])
def test_the_worst_finding_decides_and_stands_first(order: int) -> None:
    findings = [finding("R0", "a.one"), finding("R3", "c.three"), finding("R1", "b.two"), finding("R1", None)]
    found = judged(*findings[::order])
    assert (found.risk, found.outcome, found.standing, found.covered) == (Risk.R3, Outcome.HOLD, None, False)
    assert found.rules[0] == "c.three"
    assert set(found.rules) == {"c.three", "b.two", "no-rule", "a.one"}
    assert found.reasons[0] == "c.three: R3"
    assert "a.one: R0" not in found.reasons, "of what is harmless nothing is said beside what is not"
    assert found.commands == tuple(f"run {each.risk.value}" for each in findings[::order])


def test_reasons_are_said_once_and_not_without_end() -> None:
    assert judged(finding("R0"), finding("R0")).reasons == ("a.one: R0",)
    assert judged(finding("R0"), finding("R0")).rules == ("a.one",)
    many = [finding("R2", reasons=tuple(f"{number}" for number in range(MAX_REASONS + 5)))]
    assert judged(*many).reasons == tuple(f"{number}" for number in range(MAX_REASONS))
    assert judged(replace(finding("R0"), command="")).commands == ()


@pytest.mark.parametrize(
    ("findings", "covered"),
    [
        ([("R1", True)], True),
        ([("R1", True), ("R0", False)], True),
        ([("R1", True), ("R1", True)], True),
        ([("R1", False)], False),
        ([("R1", True), ("R1", False)], False),
        ([("R1", True), ("R2", False)], False),
        ([("R2", True)], False),
        ([("R0", True)], False),
    ],
)
def test_a_standing_plan_covers_all_changes_or_none(findings: list[tuple[str, bool]], covered: bool) -> None:
    found = judged(*(finding(risk, covered=each) for risk, each in findings), profile="coding")
    assert found.covered is covered
    assert (found.standing is not None) is covered
    if any(risk != "R0" for risk, _ in findings):
        assert (found.outcome is Outcome.RELEASE) is covered
    assert found.standing == (bundle().standing[GateProfile.CODING] if covered else None)


def test_a_profile_without_a_plan_covers_nothing_with_it() -> None:
    found = judged(finding("R1", covered=True))
    assert (found.covered, found.standing, found.outcome) == (True, None, Outcome.NEEDS_PLAN)


def test_what_is_raised_is_not_covered_any_more() -> None:
    covered = finding("R1", covered=True)
    outside = judged(covered, profile="coding", about=Circumstances(untrusted=True))
    assert (outside.covered, outside.outcome) == (True, Outcome.RELEASE)
    odd = judged(covered, profile="coding", about=Circumstances(agent="odd"))
    assert (odd.covered, odd.risk, odd.outcome, odd.standing) == (False, Risk.R2, Outcome.HOLD, None)
    assert odd.reasons[0] == "call.agent: an odd agent"
    repaired = judged(finding("R0"), about=Circumstances(recovered=True))
    assert (repaired.risk, repaired.reasons) == (Risk.R2, ("call.recovered: was repaired",))
    by_rule = judged(finding("R0", "b.two"), about=Circumstances(tenant="acme"))
    assert by_rule.risk is Risk.R1
    assert judged(finding("R0", "a.one"), about=Circumstances(tenant="acme")).risk is Risk.R0
    coding = judged(finding("R0", "b.two"), profile="coding", about=Circumstances(tenant="acme"))
    assert (coding.risk, coding.covered, coding.standing) == (Risk.R1, False, None), "a plan covers changes alone"
    assert coding.outcome is Outcome.NEEDS_PLAN


# --- what cannot be judged -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", list(GateProfile))
def test_a_classifier_that_fails_holds(profile: GateProfile) -> None:
    found = Found(ZeroDivisionError("secret")).classify("shell", '{ "a":1 }', profile)
    assert (found.risk, found.arguments, found.rules) == (Risk.R2, '{"a":1}', ("classifier.error",))
    assert found.outcome is (Outcome.RELEASE if profile is GateProfile.OBSERVE else Outcome.HOLD)
    assert "secret" not in repr(found)


def test_a_failure_before_anything_is_decoded_leaves_nothing_to_release() -> None:
    found = Classifier(bundle(), READER).classify("shell", {"a": object()})  # pyright: ignore[reportArgumentType]
    assert (found.risk, found.arguments) == (Risk.R2, None)
    assert found.outcome is Outcome.HOLD


def test_not_even_the_name_of_a_tool_makes_it_fail() -> None:
    found = Classifier(bundle(), READER).classify(cast(str, None), "{}")
    assert (found.risk, found.outcome, found.arguments) == (Risk.R2, Outcome.HOLD, None)


@pytest.mark.parametrize("profile", list(GateProfile))
@pytest.mark.parametrize("arguments", ["{", "[]", '{"a":1,"a":2}', "{}" * 2])
def test_what_is_not_read_in_one_way_is_held_under_every_profile(profile: GateProfile, arguments: str) -> None:
    classifier = Classifier(bundle(), READER)
    for found in (
        classifier.classify("shell", arguments, profile),
        classifier.unavailable("shell", arguments, profile, "x"),
    ):
        assert (found.risk, found.outcome, found.arguments) == (Risk.R2, Outcome.HOLD, None)
        assert found.rules == ("arguments.rejected",)


def test_what_is_raised_to_forbidden_stays_so_without_a_text() -> None:
    said = tiny()
    said["raises"] = [{"id": "a.b", "when": {"untrusted": True}, "to": {"R2": "FORBIDDEN", "R3": "FORBIDDEN"},
                       "reason": "never"}]  # fmt: skip
    with tempfile.TemporaryDirectory() as directory:
        classifier = Classifier(read_policy(write(Path(directory), said)), READER)
    found = classifier.classify("shell", "{", GateProfile.OBSERVE, Circumstances(untrusted=True))
    assert (found.risk, found.outcome) == (Risk.FORBIDDEN, Outcome.FORBID)


def test_a_call_that_took_too_long_keeps_its_text() -> None:
    found = Classifier(bundle(), READER).unavailable("shell", '{ "command":"ls" }', GateProfile.OPS, "no answer")
    assert (found.risk, found.arguments, found.outcome) == (Risk.R2, '{"command":"ls"}', Outcome.HOLD)
    assert found.reasons == ("classifier.error: no answer",)


@pytest.mark.parametrize(
    ("tool", "fits"),
    [
        ("x" * MAX_TOOL_NAME, True),
        ("x" * (MAX_TOOL_NAME + 1), False),
        ("sh\x00ell", False),
        ("shell\u202e", False),
        ("sh\u0435ll", True),
    ],
)
def test_the_name_of_a_tool_is_short_plain_text(tool: str, fits: bool) -> None:
    found = Classifier(bundle(), READER).classify(tool, {"a": 1})
    assert found.rules == (("tool.unknown",) if fits else ("arguments.rejected",))
    assert found.outcome is Outcome.HOLD


def test_text_and_value_of_arguments_are_judged_alike() -> None:
    classifier = Classifier(bundle(), READER)
    assert classifier.classify("shell", {"command": "ls"}) == classifier.classify("shell", '{"command": "ls"}')


def test_the_shell_is_read_by_the_reader_that_is_given() -> None:
    assert vars(Classifier(bundle(), READER))["_reader"] is READER
    assert isinstance(vars(Classifier(bundle()))["_reader"], ShellReader)


# --- tools -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tool", "arguments", "risk", "covered"),
    [
        ("shell", {"command": "ls"}, "R0", False),
        ("shell", {"command": ["apply_patch", PATCH]}, "R1", True),
        ("type", {"chars": ""}, "R0", False),
        ("type", {"chars": "rm -rf /\n"}, "R2", False),
        ("Write", {"path": "a", "text": "b"}, "R1", True),
        ("Edit", {"path": "a", "text": "b"}, "R1", True),
        ("apply_patch", {"patch": PATCH}, "R1", True),
        ("fetch", {"url": "http://localhost/"}, "R0", False),
        ("fetch", {"url": "http://169.254.169.254/"}, "FORBIDDEN", False),
        ("apply", {"object": "kind: ConfigMap\napiVersion: v1\nmetadata: {name: a, namespace: lab}\n"}, "R3", False),
        ("query", {"sql": "select 1"}, "R0", False),
        ("query", {"sql": "select password from users"}, "R1", False),
        ("query", {"sql": "drop table t"}, "R3", False),
        ("run", {"code": "1"}, "R2", False),
        ("teleport", {}, "R2", False),
        ("shell", {"cmd": "ls"}, "R2", False),
        ("shell", {}, "R2", False),
        ("Write", {"path": "a", "text": "b", "mode": 1}, "R2", False),
        ("shell", {"command": "ls", "timeout": None}, "R0", False),
    ],
)
def test_a_call_is_read_by_the_adapter_of_its_tool(
    tool: str, arguments: dict[str, JsonValue], risk: str, covered: bool
) -> None:
    found = Classifier(bundle(), READER).classify(tool, arguments, GateProfile.CODING)
    assert (found.risk.value, found.covered) == (risk, covered), found.reasons


def test_code_is_told_as_code() -> None:
    found = Classifier(bundle(), READER).classify("run", {"code": "1"})
    assert (found.rules, found.preview) == (("tool.code",), "runs\n  1")


def test_an_edit_is_shown() -> None:
    classifier = Classifier(bundle(), READER)
    assert "b" in str(classifier.classify("Edit", {"path": "a", "text": "b"}).preview)
    assert classifier.classify("shell", {"command": "ls"}).preview is None


def test_a_bundle_without_patches_knows_no_program_of_that_name() -> None:
    with tempfile.TemporaryDirectory() as directory:
        classifier = Classifier(read_policy(write(Path(directory), tiny())), READER)
        said = tiny()
        said["tools"].append(TOOLS[1] | {"names": ["apply_patch"]})
        other = Classifier(read_policy(write(Path(directory), said)), READER)
    for each in (classifier, other):
        found = each.classify("shell", {"command": ["apply_patch", PATCH]}, GateProfile.CODING)
        assert (found.risk, found.covered) == (Risk.R2, False)


@pytest.mark.parametrize(
    ("schema", "risk", "why"),
    [
        (DIGEST, Risk.R0, "reads"),
        (None, Risk.R2, "was not offered with a schema"),
        ("6" * 64, Risk.R2, "was offered with another schema"),
    ],
)
def test_a_tool_with_a_schema_is_itself_only_with_that_schema(schema: str | None, risk: Risk, why: str) -> None:
    found = Classifier(bundle(), READER).classify("pinned", {"id": "a"}, circumstances=Circumstances(schema=schema))
    assert found.risk is risk
    assert why in found.reasons[0]
    unpinned = Classifier(bundle(), READER).classify(
        "shell", {"command": "ls"}, circumstances=Circumstances(schema=schema)
    )
    assert unpinned.risk is Risk.R0


# --- tenants ---------------------------------------------------------------------------------------------------------


@cache
def of_tenants() -> Classifier:
    names = {"place": [{"match": ["lab"], "sensitivity": "sensitive"}], "path": [{"match": ["./src"], "env": "prod"}]}
    own = with_tenants(bundle(), {"acme": TenantGateSettings.model_validate({"targets": names})})
    return Classifier(own, READER)


@pytest.mark.parametrize(
    ("command", "others", "acme"),
    [
        ("ship web --to lab", Risk.R2, Risk.R3),
        ("ship web --to vault", Risk.R3, Risk.R3),
        ("ls src", Risk.R0, Risk.R0),
        ("rm src", Risk.R1, Risk.R2),
        ("rm x", Risk.R1, Risk.R1),
    ],
)
def test_a_tenants_names_only_raise(command: str, others: Risk, acme: Risk) -> None:
    digests: set[str] = set()
    for tenant, risk in ((None, others), ("", others), ("other", others), ("acme", acme)):
        about = Circumstances(tenant=tenant)
        found = of_tenants().classify("shell", {"command": command}, GateProfile.CODING, about)
        assert (found.risk, found.covered) == (risk, risk is Risk.R1)
        digests.add(found.policy_digest)
        assert (found.policy_digest == of_tenants().policy_digest) is (tenant != "acme")
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("found", "own", "counts"),
    [
        (("R2", False), ("R1", False), "found"),
        (("R1", False), ("R1", True), "found"),
        (("R1", True), ("R1", False), "own"),
        (("R1", True), ("R1", True), "own"),
        (("R1", True), ("R0", False), "found"),
        (("R0", False), ("R3", False), "own"),
        (("FORBIDDEN", False), ("R3", False), "found"),
    ],
)
def test_the_higher_class_counts_under_the_tenants_digest(
    found: tuple[str, bool], own: tuple[str, bool], counts: str
) -> None:
    """Names that lower a class by accident do not: the judgement without them stands."""
    classifier = Found(finding(found[0], covered=found[1], reasons=("found",)))
    other = Found(finding(own[0], covered=own[1], reasons=("own",)))
    vars(other)["_bundle"] = replace(bundle(), policy_digest="e" * 64)
    vars(classifier)["_own"] = {"acme": other}
    judged = classifier.classify("shell", "{}", GateProfile.CODING, Circumstances(tenant="acme"))
    assert (judged.reasons[-1], judged.policy_digest) == (counts, "e" * 64)
    assert judged.risk.value == (found if counts == "found" else own)[0]

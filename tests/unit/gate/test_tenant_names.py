"""What a tenant's settings make stricter: each kind of name, and the law that no setting lowers a class."""

import re
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployments.errors import ApprovalConflict
from deployments.gate.approvals import ApprovalDesk
from deployments.gate.bundle import BUNDLE_DIRECTORY
from deployments.gate.circumstances import Circumstances
from deployments.gate.classify import Classification, Classifier
from deployments.gate.explain import explain
from deployments.gate.grammar import BundleError
from deployments.gate.name_settings import NamesSettings, TenantGateSettings
from deployments.gate.policy import Bundle, read_policy
from deployments.gate.settings import GateSettings
from deployments.gate.shadow import ShadowedClassifier
from deployments.gate.shell.reader import ShellReader
from deployments.gate.tables import OUTCOME_ORDER
from deployments.gate.tenant_names import digests, with_tenants
from deployments.ports import ApprovalState, GateProfile, JsonValue
from serve_app.app import load_classifier
from tests.gate.mutate import corpus
from tests.unit.gate.test_approvals import AGENT, PLAN, POLICY, Desk

Targets = Mapping[str, Sequence[Mapping[str, object]]]
ACME = Circumstances(tenant="acme")
READER = ShellReader(timeout_s=20.0)
NAMES = {
    "namespace": [{"match": ["payroll", "pay-*"], "sensitivity": "sensitive"}, {"match": ["staging"], "env": "prod"}],
    "ref": [{"match": ["feature/live"], "env": "prod", "sensitivity": "sensitive"}],
    "path": [{"match": ["./customer-data", "./customer-data/*"], "env": "prod", "sensitivity": "sensitive"}],
    "written": [{"match": ["*/prices.yaml"], "class": "R3"}],
    "host": [{"match": ["localhost"], "egress": "other"}],
    "account": [{"match": ["@default"], "sensitivity": "sensitive"}],
    "database": [{"match": ["ledger"], "env": "prod", "sensitivity": "sensitive"}, {"match": ["vault"], "class": "R3"}],
}


@cache
def plain() -> Bundle:
    return read_policy(BUNDLE_DIRECTORY / "default.yaml")


def named(targets: Targets, tenant: str = "acme") -> Bundle:
    return with_tenants(plain(), {tenant: TenantGateSettings.model_validate({"targets": targets})})


@cache
def classifier() -> Classifier:
    return Classifier(named(NAMES), READER)


def shell(command: str, of: Classifier, about: Circumstances = ACME, profile: str = "ops") -> Classification:
    return of.classify("shell", {"command": command}, GateProfile(profile), about)


RAISED = {
    "kubectl -n payroll get pods": ("R0", "R1"),
    "kubectl -n pay-eu get pods": ("R0", "R1"),
    "kubectl -n staging rollout restart deploy/web": ("R1", "R2"),
    "git push origin feature/live": ("R2", "R3"),
    "cat customer-data/list.csv": ("R0", "R1"),
    "grep -r x customer-data": ("R0", "R1"),
    "cat customer-d*/*.csv": ("R0", "R1"),
    "echo 1 > config/prices.yaml": ("R2", "R3"),
    "curl -s http://localhost:8080/x": ("R0", "R2"),
    "aws ec2 describe-instances": ("R0", "R1"),
    "psql -d ledger -c 'select 1'": ("R0", "R1"),
    "mysql -e 'update t set a = 1 where id = 2' ledger": ("R2", "R3"),
    "mysql -e 'select 1' ledger": ("R0", "R1"),
    "mysql -e 'select * from ledger.rows'": ("R0", "R1"),
    "psql -d vault -c 'select 1'": ("R0", "R3"),
    "psql -d \"$DB\" -c 'select 1'": ("R2", "R3"),
    "psql -d shop <<'E'\nselect * from ledger.rows;\nE": ("R0", "R1"),
}


@pytest.mark.parametrize("command", RAISED)
def test_a_name_of_the_tenant_raises_a_call_that_names_it(command: str) -> None:
    before, after = RAISED[command]
    others = Circumstances(tenant="globex")
    assert (shell(command, classifier(), others).risk.value, shell(command, classifier()).risk.value) == (before, after)


@pytest.mark.parametrize(
    "command",
    [
        "kubectl -n shop get pods",
        "git push origin fix/a",
        "cat README.md",
        "psql -d shop -c 'select 1'",
        "ls",
        "pytest",
    ],
)
def test_what_names_none_of_them_is_what_it_was(command: str) -> None:
    for profile in ("ops", "coding", "observe"):
        others = Circumstances(tenant="globex")
        found, before = (shell(command, classifier(), about, profile) for about in (ACME, others))
        assert (found.risk, found.outcome, found.covered) == (before.risk, before.outcome, before.covered)


def test_everything_of_a_tenant_may_be_production() -> None:
    own = Classifier(named({"runner": [{"match": ["@default"], "env": "prod"}]}), READER)
    command = "git commit -m x"
    assert shell(command, own).risk.rank > shell(command, own, Circumstances(tenant="globex")).risk.rank


def test_a_sensitive_path_is_no_longer_covered_by_the_standing_plan() -> None:
    command = "sed -i s/a/b/ customer-data/list.csv"
    assert shell(command, classifier(), Circumstances(tenant="globex"), "coding").covered
    found = shell(command, classifier(), profile="coding")
    assert not found.covered
    assert found.standing is None
    assert found.risk.value == "R3"


def test_lines_add_up_in_no_order() -> None:
    lines: list[dict[str, object]] = [
        {"match": ["dev"], "env": "prod"},
        {"match": ["d*"], "sensitivity": "sensitive"},
        {"match": ["*"], "class": "R1"},
    ]
    command = "kubectl -n dev delete pod web"
    found = {
        shell(command, Classifier(named({"namespace": [lines[at] for at in order]}), READER)).risk.value
        for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0))
    }
    assert found == {"R3"}


def test_the_digest_is_the_tenants_own_and_follows_its_names() -> None:
    one, other = named({"namespace": [{"match": ["a"], "env": "prod"}]}), named(NAMES)
    found = {shell("ls", Classifier(each, READER)).policy_digest for each in (plain(), one, other)}
    assert len(found) == 3
    assert shell("ls", Classifier(other, READER), Circumstances(tenant="globex")).policy_digest == plain().policy_digest
    assert digests(other) == {"acme": shell("ls", Classifier(other, READER)).policy_digest}
    assert digests(named({})) == {}


def test_it_is_explained() -> None:
    command: dict[str, JsonValue] = {"command": "kubectl -n payroll get pods"}
    found = explain(named(NAMES), "shell", command, circumstances=ACME, reader=READER)
    assert found.risk.value == "R1"
    assert found.policy_digest == digests(named(NAMES))["acme"]
    (target,) = [each for step in found.steps for each in step.targets if each.name == "payroll"]
    assert target.sensitivity == "sensitive"


def test_a_shadow_bundle_knows_them_too() -> None:
    both = ShadowedClassifier(named(NAMES), named(NAMES), READER, patience_s=20.0)
    found = shell("kubectl -n payroll get pods", both)
    assert found.shadow is not None
    assert (found.risk, found.shadow.risk.value) == (found.shadow.risk, "R1")


def test_a_replica_reads_them_from_the_settings_of_the_gate(tmp_path: Path) -> None:
    made = GateSettings.model_validate({"tenants": {"acme": {"targets": NAMES}}})
    assert shell("kubectl -n payroll get pods", load_classifier(made, tmp_path)).risk.value == "R1"


def test_a_kind_that_nothing_reads_is_refused_by_name() -> None:
    with pytest.raises(BundleError, match=r"gate\.tenants\.acme\.targets: .*'namespce'.*namespace"):
        named({"namespce": [{"match": ["a"], "env": "prod"}]})


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"match": ["a"]}, "must say what"),
        ({"match": [], "env": "prod"}, "at least 1"),
        ({"match": ["a"], "env": "nonprod"}, "'prod'"),
        ({"match": ["a"], "sensitivity": "normal"}, "'sensitive'"),
        ({"match": ["a"], "egress": "none"}, "'listed'"),
        ({"match": ["a"], "class": "R0"}, "'R1'"),
        ({"match": ["a"], "env": "prod", "workspace": True}, "Extra inputs"),
    ],
    ids=["nothing", "no-name", "nonprod", "normal", "inside", "R0", "workspace"],
)
def test_a_line_that_would_lower_something_cannot_be_written(line: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        NamesSettings.model_validate(line)


# --- the law ---------------------------------------------------------------------------------------------------------

_WORD = re.compile(r"[A-Za-z0-9_./@~-]{1,40}")


@cache
def kinds() -> list[str]:
    return sorted({*plain().targets, "database"})


@cache
def lines() -> tuple[str, ...]:
    return tuple(line.command for line in corpus())


def strictness(found: Classification) -> tuple[int, int, bool]:
    return found.risk.rank, OUTCOME_ORDER.index(found.outcome), not found.covered


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, Targets]:
    """A line, and settings about words of this very line."""
    command = draw(st.sampled_from(lines()))
    words = sorted(set(_WORD.findall(command))) or ["x"]
    pattern = st.one_of(
        st.sampled_from(words), st.sampled_from(words).map(lambda word: f"./{word}"), st.just("*"), st.just("@default"),
        st.sampled_from(words).map(lambda word: f"{word[:3]}*"), st.just("./*"), st.just("/etc/*"),
    )  # fmt: skip
    line = st.fixed_dictionaries(
        {"match": st.lists(pattern, min_size=1, max_size=3), "sensitivity": st.sampled_from([None, "sensitive"])},
        optional={
            "env": st.just("prod"), "egress": st.sampled_from(["listed", "other"]),
            "class": st.sampled_from(["R1", "R2", "R3", "FORBIDDEN"]),
        },
    ).filter(lambda each: any(each.get(name) for name in ("env", "sensitivity", "egress", "class")))  # fmt: skip
    return command, draw(st.dictionaries(st.sampled_from(kinds()), st.lists(line, min_size=1, max_size=3), max_size=4))


LAW = settings(
    max_examples=400, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip


@LAW
@given(case=cases(), profile=st.sampled_from(["ops", "coding", "observe"]))
def test_no_setting_of_a_tenant_lowers_a_class(case: tuple[str, Targets], profile: str) -> None:
    command, targets = case
    judged = partial(shell, command, profile=profile)
    before = strictness(judged(Classifier(plain(), READER)))
    all_lines = named(targets)
    assert strictness(judged(Classifier(all_lines, READER))) >= before
    # By the names alone it holds as well, so that the second look is a second lock and not the only one; and what holds
    # with some of the lines holds with more of them.
    alone = strictness(judged(Classifier(all_lines.of("acme"), READER)))
    assert alone >= before
    fewer = named({kind: given[1:] for kind, given in targets.items()})
    assert alone >= strictness(judged(Classifier(fewer.of("acme"), READER)))
    assert strictness(judged(Classifier(all_lines, READER), Circumstances(tenant="globex"))) == before


async def test_what_waits_is_proposed_again_when_the_names_of_its_tenant_change(tmp_path: Path) -> None:
    world = Desk(tmp_path / "gate.db")
    await world.store.open()
    try:
        held = await world.opened()

        def desk(policy: str, own: str) -> ApprovalDesk:
            digests_of = {str(held.proposal.tenant): own}
            return ApprovalDesk(world.store, world.audit, world.clock, world.settings, policy,
                                holders=world.ledger.holders, tenant_digests=digests_of)  # fmt: skip

        planned = await desk("b" * 64, POLICY).plan(AGENT, held.approval_id, "CHG-1", PLAN)
        assert planned.state is ApprovalState.PENDING
        with pytest.raises(ApprovalConflict, match="must be proposed again"):
            await desk(POLICY, "b" * 64).plan(AGENT, held.approval_id, "CHG-1", PLAN)
        assert await world.state(held) is ApprovalState.STALE
    finally:
        await world.store.close()

"""Which bundle judges a call: that of its session, for the whole turn, and on record; of a stranger's both."""

import json
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from deployments.clock import FixedClock
from deployments.errors import GateUnavailable
from deployments.gate.bundle import bundle_path
from deployments.gate.canary import Canary
from deployments.gate.classify import Classification, Classifier
from deployments.gate.explain import explain
from deployments.gate.guard import Guard
from deployments.gate.judges import Judges, judges_of
from deployments.gate.live import NOBODY_SAYS
from deployments.gate.policy import Bundle, read_policy
from deployments.gate.shadow import ShadowedClassifier
from deployments.gate.shell.reader import ShellReader
from deployments.gate.tables import Outcome
from deployments.ports import GateContext, GateProfile, Held, Released, Risk, ToolCall, Withheld
from tests.fakes_audit import InMemoryAudit
from tests.fakes_gate import InMemoryApprovals
from tests.gate.mutate import corpus
from tests.gate.together import WHOLE, classify_each
from tests.unit.gate.guards import call, context
from tests.unit.gate.own_bundles import own_bundle

REVISION = "c" * 64
# Milder in one respect, stricter in another: neither bundle's word can stand for the other's.
CANDIDATE = """
targets:
  host:
    - {match: [status.night-run.example], env: nonprod, egress: none, sensitivity: normal}
  namespace:
    - {match: [staging], env: prod, sensitivity: sensitive}
"""
MILDER = '{"command":"curl -s https://status.night-run.example/"}'
STRICTER = '{"command":"kubectl -n staging get pods"}'
BOTH_HOLD = '{"command":"kubectl delete namespace shop"}'
SAMPLE = 400


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return read_policy(bundle_path("default"))


@pytest.fixture(scope="module")
def classifier(bundle: Bundle) -> Classifier:
    return Classifier(bundle, ShellReader(timeout_s=20.0))


@pytest.fixture(scope="module")
def candidate() -> Bundle:
    return own_bundle(CANDIDATE)


@pytest.fixture(scope="module")
def judges(classifier: Classifier, candidate: Bundle) -> Judges:
    return Judges(classifier, "r7", {REVISION: Classifier(candidate, ShellReader(timeout_s=20.0))})


@pytest.fixture
def audit() -> InMemoryAudit:
    return InMemoryAudit()


@pytest.fixture
def approvals() -> InMemoryApprovals:
    return InMemoryApprovals()


@pytest.fixture
def guard(judges: Judges, approvals: InMemoryApprovals, audit: InMemoryAudit) -> Guard:
    return Guard(judges, approvals, audit, FixedClock(), classify_timeout_s=20.0)


def of(policy: str, profile: GateProfile = GateProfile.CODING) -> GateContext:
    return replace(context(profile), policy=policy)


async def test_a_session_is_judged_by_the_bundle_that_its_context_names(guard: Guard) -> None:
    for arguments, by_configured, by_candidate in ((MILDER, Held, Released), (STRICTER, Released, Held)):
        for policy, expected in (("", by_configured), ("r7", by_configured), (REVISION, by_candidate)):
            (verdict,) = await guard.judge(of(policy), [call(arguments)])
            assert type(verdict) is expected, (arguments, policy, verdict)


async def test_a_revision_that_nobody_knows_is_judged_by_both(guard: Guard) -> None:
    for arguments in (MILDER, STRICTER, BOTH_HOLD):
        (verdict,) = await guard.judge(of("f" * 64), [call(arguments)])
        assert isinstance(verdict, Held), arguments


async def test_every_record_says_which_bundle_judged(
    guard: Guard, audit: InMemoryAudit, approvals: InMemoryApprovals, judges: Judges, candidate: Bundle
) -> None:
    for policy, digest, name in (
        ("", judges.policy_digest, "default"),
        (REVISION, candidate.policy_digest, "mine"),
        ("f" * 64, judges.policy_digest, "default and mine"),
    ):
        audit.events.clear()
        await guard.judge(of(policy), [call(BOTH_HOLD), call('{"command":"ls"}', index=1)])
        found = [str(event.data["policy_digest"]) for event in audit.events if event.name != "tool_call.proposed"]
        assert set(found) == {digest}
        assert {str(event.data["rule_set"]) for event in audit.named("tool_call.classified")} == {name}
    assert [each.policy_digest for each in approvals.proposals] == [
        judges.policy_digest,
        candidate.policy_digest,
        judges.policy_digest,
    ]
    assert len({each.fingerprint for each in approvals.proposals}) == 2


async def test_the_same_call_under_the_other_policy_is_another_call(guard: Guard, approvals: InMemoryApprovals) -> None:
    (mine,), (theirs,) = [await guard.judge(of(policy), [call(BOTH_HOLD)]) for policy in ("", REVISION)]
    assert isinstance(mine, Held)
    assert isinstance(theirs, Held)
    assert mine.approval_id != theirs.approval_id
    assert len(approvals.found) == 2


async def test_a_call_that_takes_too_long_is_held_under_the_bundle_of_its_session(
    judges: Judges, approvals: InMemoryApprovals, audit: InMemoryAudit, candidate: Bundle
) -> None:
    guard = Guard(judges, approvals, audit, FixedClock(), classify_timeout_s=0.0)
    for policy in (REVISION, "f" * 64):
        (verdict,) = await guard.judge(of(policy), [call('{"command":"ls"}')])
        assert isinstance(verdict, Held)
    assert approvals.proposals[0].policy_digest == candidate.policy_digest


async def test_why_nothing_can_be_released_is_told(guard: Guard, approvals: InMemoryApprovals) -> None:
    async def fails(proposal: object) -> object:
        raise GateUnavailable(NOBODY_SAYS)

    approvals.propose = fails  # type: ignore[method-assign, assignment]
    (verdict,) = await guard.judge(of(REVISION), [call(BOTH_HOLD)])
    assert isinstance(verdict, Withheld)
    assert verdict.reason == NOBODY_SAYS


async def test_without_a_candidate_a_stale_revision_is_the_configured_bundle_s(classifier: Classifier) -> None:
    alone = judges_of(classifier)
    assert alone.of("f" * 64) is classifier
    assert (alone.named(""), alone.named("f" * 64)) == ("", None)
    assert judges_of(alone) is alone


async def test_the_canary_is_held_by_every_live_bundle(
    guard: Guard, approvals: InMemoryApprovals, audit: InMemoryAudit, judges: Judges, candidate: Bundle
) -> None:
    result = await Canary(guard, approvals, FixedClock(), 60, 60, policies=("", REVISION)).check()
    assert (result.problem, result.escaped) == (None, False)
    judged = {str(event.data["policy_digest"]) for event in audit.named("tool_call.held")}
    assert judged == {judges.policy_digest, candidate.policy_digest}
    assert len(audit.named("tool_call.held")) == 4


class Lax(Classifier):
    """Judges nothing to be dangerous."""

    def classify(self, *call: object, **more: object) -> Classification:
        found = super().classify(*call, **more)  # type: ignore[arg-type]
        return replace(found, risk=Risk.R0, outcome=Outcome.RELEASE)


async def test_a_candidate_that_holds_nothing_is_an_escape_although_the_configured_bundle_holds(
    classifier: Classifier, candidate: Bundle, approvals: InMemoryApprovals, audit: InMemoryAudit
) -> None:
    judges = Judges(classifier, "r7", {REVISION: Lax(candidate, ShellReader(timeout_s=20.0))})
    guard = Guard(judges, approvals, audit, FixedClock(), classify_timeout_s=20.0)
    result = await Canary(guard, approvals, FixedClock(), 60, 60, policies=("", REVISION)).check()
    assert result.escaped
    assert result.problem is not None
    assert result.problem.endswith(f"by the candidate policy {REVISION[:12]}")


async def test_one_shadow_judges_beside_both(bundle: Bundle, candidate: Bundle) -> None:
    reader = ShellReader(timeout_s=20.0)
    live = ShadowedClassifier(bundle, bundle, reader, patience_s=60.0)
    both = Judges(live, "r7", {REVISION: live.beside(candidate)})
    mine = both.of("").classify("shell", {"command": "kubectl -n staging get pods"}, GateProfile.OPS)
    theirs = both.of(REVISION).classify("shell", {"command": "kubectl -n staging get pods"}, GateProfile.OPS)
    assert mine.shadow is not None
    assert theirs.shadow is not None
    assert (mine.risk, theirs.risk) == (Risk.R0, Risk.R1)
    assert mine.shadow == theirs.shadow
    assert (sum(live.counts.pairs.values()), live.counts.changed) == (2, 1)


def test_an_explanation_is_of_the_bundle_that_judges_the_session(judges: Judges) -> None:
    found = {policy: explain(judges.of(policy).bundle, "shell", json.loads(MILDER)) for policy in ("", REVISION)}
    assert found[""].risk.rank > found[REVISION].risk.rank
    assert found[""].policy_digest != found[REVISION].policy_digest


# --- over the corpora ------------------------------------------------------------------------------------------------


def sample() -> list[str]:
    lines = [line.command for line in corpus()]
    if WHOLE:
        return lines
    touched = [each for each in lines if "staging" in each][: SAMPLE // 4]
    return [*touched, *random.Random(9).sample(lines, SAMPLE)]


@pytest.mark.parametrize("profile", [GateProfile.OPS, GateProfile.CODING])
async def test_nothing_is_released_for_a_session_that_its_bundle_holds(
    bundle: Bundle, candidate: Bundle, profile: GateProfile
) -> None:
    lines = sample()
    alone: list[Sequence[Classification]] = [list(classify_each(each, lines, profile)) for each in (bundle, candidate)]
    reader = ShellReader(timeout_s=20.0)
    reader.learn(lines)
    both = Judges(Classifier(bundle, reader), "r7", {REVISION: Classifier(candidate, reader)})
    guard = Guard(both, InMemoryApprovals(), InMemoryAudit(), FixedClock(), classify_timeout_s=60.0)
    differing = 0
    for line, configured, other in zip(lines, *alone, strict=True):
        wanted = {
            "": configured.outcome is Outcome.RELEASE,
            REVISION: other.outcome is Outcome.RELEASE,
            "f" * 64: configured.outcome is other.outcome is Outcome.RELEASE,
        }
        differing += configured.outcome is not other.outcome
        for policy, released in wanted.items():
            (verdict,) = await guard.judge(of(policy, profile), [ToolCall("c_1", 0, 0, "shell", _arguments(line))])
            assert isinstance(verdict, Released) is released, (line, policy, verdict)
    assert differing, "the two bundles must disagree about something"


def test_of_both_words_the_stricter_counts(judges: Judges, bundle: Bundle, candidate: Bundle) -> None:
    lines = [line for line in sample() if "staging" in line] or sample()
    strict = judges.of("f" * 64)
    for line, configured, other in zip(
        lines, classify_each(bundle, lines), classify_each(candidate, lines), strict=True
    ):
        found = strict.classify("shell", {"command": line})
        assert found.risk.rank == max(configured.risk.rank, other.risk.rank), line
        outcomes = list(Outcome)
        assert outcomes.index(found.outcome) == max(outcomes.index(each.outcome) for each in (configured, other)), line


def _arguments(line: str) -> str:
    return json.dumps({"command": line})

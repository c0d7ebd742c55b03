from collections import Counter
from pathlib import Path

import pytest

from deployments.gate.circumstances import Circumstances
from deployments.gate.classify import Classifier
from deployments.gate.policy import read_policy
from deployments.gate.replay import MAX_EXAMPLES, PastCall, as_json, past_call, recorded_shadow, replay
from deployments.gate.shell.reader import ShellReader
from deployments.gate.tables import Outcome
from deployments.ports import GateProfile, JsonValue, Risk
from tests.unit.gate.tiny import tiny, write

LS = '{"command":"ls"}'


@pytest.fixture
def classifier(tmp_path: Path) -> Classifier:
    return Classifier(read_policy(write(tmp_path, tiny())), ShellReader(20.0))


def call(
    index: int,
    arguments: str | None,
    risk: Risk,
    outcome: Outcome,
    profile: GateProfile = GateProfile.OPS,
    shadow: tuple[Risk, Outcome] | None = None,
    circumstances: Circumstances = Circumstances(),  # noqa: B008 - frozen
) -> PastCall:
    return PastCall(index, "shell", arguments, profile, circumstances, (risk, outcome), "d" * 64, shadow)


def test_calls_are_judged_again_and_counted_by_their_change(classifier: Classifier) -> None:
    report = replay(
        classifier,
        [
            call(1, LS, Risk.R0, Outcome.RELEASE),
            call(2, LS, Risk.R2, Outcome.HOLD),
            call(3, '{"command":"rm x"}', Risk.R0, Outcome.RELEASE),
            call(4, '{"command":"rm x"}', Risk.R1, Outcome.RELEASE, GateProfile.CODING),
            call(5, None, Risk.R3, Outcome.HOLD),
            *[call(10 + number, LS, Risk.R2, Outcome.HOLD) for number in range(9)],
        ],
    )
    assert (report.total, report.judged, report.same, report.looser, report.stricter) == (14, 13, 2, 10, 1)
    assert report.skipped == Counter({"not kept": 1})
    said = as_json(report)
    assert said["changes"] == [
        {
            "direction": "looser",
            "from": {"risk": "R2", "outcome": "hold"},
            "to": {"risk": "R0", "outcome": "release"},
            "count": 10,
            "examples": [2, 10, 11, 12, 13],
        },
        {
            "direction": "stricter",
            "from": {"risk": "R0", "outcome": "release"},
            "to": {"risk": "R2", "outcome": "hold"},
            "count": 1,
            "examples": [3],
        },
    ]
    assert MAX_EXAMPLES == 5


def test_the_circumstances_on_record_count(classifier: Classifier) -> None:
    report = replay(classifier, [call(1, LS, Risk.R2, Outcome.HOLD, circumstances=Circumstances(recovered=True))])
    assert report.same == 1


def test_a_call_whose_tool_was_not_offered_stays_refused(classifier: Classifier) -> None:
    report = replay(classifier, [call(1, LS, Risk.R0, Outcome.FORBID)])
    assert (report.same, report.looser) == (1, 0)


def test_a_milder_outcome_of_the_same_class_is_looser(classifier: Classifier) -> None:
    report = replay(classifier, [call(1, LS, Risk.R0, Outcome.HOLD)])
    assert report.looser == 1


def test_what_shadow_bundles_said_is_told_by_bundle() -> None:
    found = recorded_shadow(
        [
            call(1, None, Risk.R0, Outcome.RELEASE),
            call(2, None, Risk.R0, Outcome.RELEASE, shadow=(Risk.R0, Outcome.RELEASE)),
            call(3, None, Risk.R2, Outcome.HOLD, shadow=(Risk.R0, Outcome.RELEASE)),
        ]
    )
    assert {digest[:1]: (each.total, each.judged, each.looser) for digest, each in found.items()} == {
        "": (1, 0, 0),
        "d": (2, 2, 1),
    }


FIELDS: dict[str, JsonValue] = {
    "tool": "shell",
    "risk": "R2",
    "outcome": "hold",
    "profile": "coding",
    "policy_digest": "a" * 64,
    "agent": "codex/1",
    "untrusted": True,
    "shadow_risk": "R0",
    "shadow_outcome": "release",
    "shadow_policy_digest": "b" * 64,
}


def test_a_record_is_read() -> None:
    found = past_call({"sequence": 7, "tenant": "acme"}, FIELDS, True, LS, "")
    assert found is not None
    assert found.circumstances == Circumstances(recovered=True, untrusted=True, tenant="acme", agent="codex/1")
    assert (found.index, found.profile, found.seen) == (7, GateProfile.CODING, (Risk.R2, Outcome.HOLD))
    assert (found.shadow, found.policy_digest) == ((Risk.R0, Outcome.RELEASE), "b" * 64)
    old = {name: FIELDS[name] for name in ("tool", "risk", "outcome", "policy_digest")}
    plain = past_call({"sequence": 7, "tenant": "acme"}, old, False, None, "why")
    assert plain is not None
    assert (plain.profile, plain.shadow, plain.policy_digest) == (GateProfile.OPS, None, "a" * 64)


@pytest.mark.parametrize("change", [{"risk": "R9"}, {"outcome": "?"}, {"profile": "root"}, {"shadow_outcome": "?"}])
def test_a_record_of_another_form_is_left_out(change: dict[str, JsonValue]) -> None:
    assert past_call({"sequence": 7}, FIELDS | change, False, None, "") is None
    assert past_call({}, FIELDS, False, None, "") is None

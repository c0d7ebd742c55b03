"""Rows from what is kept of live turns: how answers were judged, what the features were, and which turns teach."""

import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from deployments.difficulty.store import Explained, Told
from deployments.ports import (
    Feedback,
    FeedbackSource,
    FeedbackVerdict,
    Hold,
    KeyId,
    RequestId,
    Risk,
    RouteExplanation,
    RouteId,
    SessionId,
    TenantId,
)
from router.explain import explain
from router.features import read
from router.policy import ROUTING_V1, default_policy, parse_policy
from router.route import trace
from router.score import score
from router.snapshot import parse
from router.structure import NAMES, structure
from router.types import StateView, Surroundings, Tier
from serve_app.routing.coldstart import cold_start
from serve_app.routing.data import DataRefused
from serve_app.routing.harvest import finished_turns
from serve_app.routing.traffic import (
    CHECKED_TRUST,
    Counts,
    Finished,
    Judged,
    TrafficRow,
    is_traffic,
    judge,
    merged,
    read_traffic,
    recovered,
    row_of,
    write_traffic,
)
from serve_app.routing.train import train
from tests.fakes_difficulty import DECISION
from tests.unit.audit.logs import event, write_log
from tests.unit.router.asks import ask
from tests.unit.routing.sets import labelled
from tests.unit.routing.traffic_rows import turns

TEXT = "If the harbour is closed and the river is high, which of the three contracts holds, and why not the others?"
EXPLORING = parse_policy({**ROUTING_V1, "learning": {"exploration": 0.1}})
KNOWN = {cold_start().digest: cold_start()}
OK, WRONG = FeedbackVerdict.OK, FeedbackVerdict.WRONG


def said(verdict: FeedbackVerdict, weight: float = 1.0, key: str = "k1", score: float | None = None) -> Feedback:
    return Feedback(
        f"e-{key}-{verdict}",
        TenantId("acme"),
        KeyId(key),
        DECISION.route_id,
        verdict,
        FeedbackSource.TOOL,
        weight,
        score,
    )


def told(text: str = TEXT, draw: float = 0.99, *verdicts: Feedback, **changes: object) -> Told:
    """A turn as the router keeps it."""
    found = trace(ask(text), StateView(), EXPLORING, cold_start(), Surroundings(draw=draw))
    made = found.decision
    decision = replace(
        DECISION, route_id=RouteId("route_1"), tier=made.tier, effort=made.effort, reason=made.reason,
        snapshot_digest=made.snapshot_digest, propensity=made.propensity, explored=made.explored,
    )  # fmt: skip
    explanation = RouteExplanation(
        decision=replace(decision, **changes),
        request_id=RequestId("req_1"),
        at_ms=7,
        task=found.signals.task.value,
        risk=Risk.R0,
        signals=(),
        rules=(),
        contributions=found.score.contributions,
        detail=explain(found, EXPLORING, StateView()),
    )
    explained = Explained(TenantId("acme"), SessionId("s1"), explanation)
    return Told(TenantId("acme"), RouteId("route_1"), explained, verdicts)


def made(turn: Told, finished: Mapping[str, Finished] | None = None) -> TrafficRow:
    row = row_of(turn, KNOWN, finished or {}, Counts())
    assert row is not None
    return row


@pytest.mark.parametrize(
    ("verdicts", "judged"),
    [
        ((), Judged()),
        ((said(OK),), Judged(1.0, 1.0, "tool")),
        ((said(WRONG),), Judged(0.0, 1.0, "tool")),
        ((said(FeedbackVerdict.UNDERPOWERED),), Judged(0.0, 1.0, "tool")),
        ((said(FeedbackVerdict.OVERKILL),), Judged(1.0, 1.0, "tool")),
        ((said(WRONG, score=0.25),), Judged(0.25, 1.0, "tool")),
        ((said(OK, 0.3, "a"), said(OK, 0.3, "b"), said(WRONG, 1.0, "ci")), Judged(0.0, 1.0, "tool")),
        ((said(OK, 1.0, "a"), said(WRONG, 1.0, "b")), Judged(0.5, 1.0, "tool")),
        ((said(OK, 0.5, "a"), said(OK, 0.5, "a"), said(OK, 0.5, "a"), said(WRONG, 0.5, "b")), Judged(0.5, 0.5, "tool")),
    ],
    ids=["nobody", "ok", "wrong", "underpowered", "overkill", "score", "most-trusted", "equals", "one-key-one-voice"],
)  # fmt: skip
def test_an_answer_is_judged_by_who_is_trusted_most_and_each_key_once(verdicts: tuple[Feedback, ...], judged: Judged):
    assert judge(verdicts, Tier.BASE) == judged


def test_checks_judge_where_nobody_else_does():
    failed, passed = Finished({None: "fail"}), Finished({None: "pass"})
    assert judge((), Tier.BASE, failed) == Judged(0.0, CHECKED_TRUST, "checks")
    assert judge((), Tier.BASE, passed) == Judged(1.0, CHECKED_TRUST, "checks")
    assert judge((), Tier.BASE, Finished({None: "unknown"})) == Judged()
    assert judge((said(OK, 0.3),), Tier.BASE, failed) == Judged(1.0, 0.3, "tool")


def test_a_verdict_on_the_answer_of_a_cascade_says_nothing_of_the_tier_that_was_routed_to():
    rose = Finished({Tier.BASE: "fail", Tier.STRONG: "pass"}, sent=Tier.STRONG)
    assert judge((said(OK),), Tier.BASE, rose) == Judged(0.0, CHECKED_TRUST, "checks")
    assert judge((said(OK),), Tier.STRONG, rose) == Judged(1.0, 1.0, "tool")
    assert judge((said(OK),), Tier.BASE, Finished({}, sent=Tier.STRONG)) == Judged()


def test_the_log_tells_which_attempt_was_checked_and_which_was_sent(tmp_path: Path):
    def finished(route: str, number: int, outcome: str = "completed", **data: str):
        return event(
            "generation.finished", f"f:{number}", route_id=route, model="m", outcome=outcome, policy_digest="1" * 64,
            **data,
        )  # fmt: skip

    write_log(
        tmp_path,
        [
            finished("route_a", 1, verdict="fail"),
            finished("route_b", 2, "abandoned", verdict="fail", tier="20b", cascade="escalated"),
            finished("route_b", 3, verdict="pass", tier="120b", cascade="escalated"),
            finished("route_c", 4, "aborted"),
            event("config.loaded", "c:1", config_digest="1" * 64),
        ],
    )
    assert finished_turns(tmp_path) == {
        "route_a": Finished({None: "fail"}, None),
        "route_b": Finished({Tier.BASE: "fail", Tier.STRONG: "pass"}, Tier.STRONG),
    }


@pytest.mark.parametrize("heads", ["difficulty", "two"])
def test_features_come_back_from_the_terms_of_an_explanation(heads: str):
    snapshot = cold_start() if heads == "difficulty" else parse(
        train(labelled(240), "two", "t", bits=12, measure=False).snapshot
    )  # fmt: skip
    for text in (TEXT, "hello", "7 * 8 = ?\n" * 40, "Warum ist der Himmel blau, wenn das All schwarz ist?"):
        passage = read(text)
        numbers = dict(zip(NAMES, structure(passage), strict=True))
        found = recovered(score((passage,), snapshot).contributions, snapshot)
        assert len(found) >= 6
        for scale in snapshot.scales:
            if scale.name in found:
                cut = scale.mean + scale.deviation * scale.of(numbers[scale.name])
                assert found[scale.name] == pytest.approx(cut, abs=0.01 * scale.deviation + 1e-6), scale.name


def test_a_row_holds_what_was_decided_and_no_word():
    row = made(told(TEXT, 0.99, said(WRONG)))
    assert (row.tenant, row.tier, row.usual, row.outcome, row.trust) == ("acme", Tier.BASE, Tier.BASE, 0.0, 1.0)
    assert row.chances == {Tier.BASE: 0.95, Tier.STRONG: 0.05}
    assert set(row.features) == set(cold_start().names)
    text = row.model_dump_json()
    for word in ("harbour", "river", "s1", "req_1"):
        assert word not in text
    assert made(told(TEXT, 0.07)).tier is Tier.STRONG
    assert made(told(TEXT, 0.07)).usual is Tier.BASE


def test_a_turn_that_a_rule_decided_has_no_chances():
    ruled = told("delete the production database, step by step, and explain why each of them is needed")
    assert made(replace(ruled, explained=_moved(ruled, Tier.STRONG))).chances == {}


def _moved(turn: Told, tier: Tier) -> Explained:
    """The same decision, on a tier that a guard or a missing model made of it: what was drawn is not what was given."""
    assert turn.explained is not None
    explanation = turn.explained.explanation
    moved = replace(explanation.decision, tier=tier, propensity=1.0)
    return replace(turn.explained, explanation=replace(explanation, decision=moved))


def test_turns_that_teach_nothing_are_counted():
    counts = Counts()
    fallen = told()
    assert fallen.explained is not None
    fallen = replace(
        fallen, explained=replace(fallen.explained, explanation=replace(fallen.explained.explanation, detail=None))
    )
    for turn in (
        told(), told(TEXT, 0.99, said(OK)), replace(told(), explained=None), told(hold=Hold.QUEUE), fallen,
        told(snapshot_digest=""), told(snapshot_digest="f" * 64),
    ):  # fmt: skip
        row_of(turn, KNOWN, {}, counts)
    assert counts == Counts(decisions=7, rows=2, judged=1, unreadable=1, held=1, fell_back=2, snapshot_unknown=1)


def test_a_late_verdict_is_taken_over_and_none_is_lost():
    first, second, third = turns(3, seed=1)
    silent = first.model_copy(update={"outcome": None, "trust": 0.0, "source": ""})
    assert merged([silent, second], [first, third]) == (first, second, third)
    assert merged([first], [silent]) == (first,)  # its verdicts have been swept from the store meanwhile
    other = first.model_copy(update={"tenant": "other"})
    assert merged([first], [other]) == (first, other)


def test_a_file_is_read_as_it_was_written_and_belongs_to_its_owner(tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    write_traffic(turns(5, seed=1), file)
    assert read_traffic(file) == turns(5, seed=1)
    assert is_traffic(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    labels = tmp_path / "labels.jsonl"
    labels.write_text(
        '{"id": "1", "prompt": "say \\"schema\\":\\"gatehouse.traffic/1\\"", "weak_ok": 1, "strong_ok": 1}'
    )
    assert not is_traffic(labels)


def test_a_damaged_file_is_refused_without_its_content(tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    write_traffic(turns(2, seed=1), file)
    first, second = file.read_text().splitlines()
    file.write_text(f"{first}\n{second.replace('verifier', 'sekrit').replace('20b', '21b')}\n")
    with pytest.raises(DataRefused, match="line 2: ") as refused:
        read_traffic(file)
    assert "sekrit" not in str(refused.value)
    file.write_text(f"{first}\n{first}\n")
    with pytest.raises(DataRefused, match="twice"):
        read_traffic(file)
    with pytest.raises(DataRefused, match="cannot read"):
        read_traffic(tmp_path / "none")


def test_the_built_in_policy_explores_nothing():
    assert default_policy().learning.exploration == 0.0

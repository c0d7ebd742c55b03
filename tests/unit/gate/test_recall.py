import pytest

from deployments.gate.recall import DONE, Fate, Judged, Recall, telling
from deployments.gate.told import from_text, to_text
from deployments.ports import AuditEvent, Body, BodyField, RequestId, SessionId, TenantId


@pytest.mark.parametrize(
    "call_id", ["chatcmpl-tool-3f0a9c1b7d5e4f60", "call_kQ9zbW3nT1xPq8", "toolu_01A09q90qw90lq917835lq9", "Ab3dE6gH9"]
)
def test_a_random_id_tells_one_call_from_all_others(call_id: str) -> None:
    assert telling(call_id)


@pytest.mark.parametrize("call_id", ["", "call_0_0", "call_0_0_", "functions.shell:0", "1", "call_12"])
def test_an_id_that_counts_tells_nothing(call_id: str) -> None:
    assert not telling(call_id)


def test_the_oldest_calls_are_forgotten() -> None:
    recall = Recall(capacity=2)
    for key in ("a", "b", "a", "c"):
        recall.put(key, Judged(Fate.RELEASED, gate_call_id=key))
    assert recall.get("b") is None
    assert [judged and judged.gate_call_id for judged in map(recall.get, "ac")] == ["a", "c"]


def test_settling_leaves_a_newer_call_of_the_same_id_alone() -> None:
    recall = Recall()
    old, new = Judged(Fate.RELEASED, "1"), Judged(Fate.RELEASED, "2")
    recall.put("a", old)
    recall.put("a", new)
    recall.settle("a", old)
    assert recall.get("a") is new
    recall.settle("a", new)
    assert recall.get("a") is DONE


@pytest.mark.parametrize("data", [None, b"\x00\xff words"])
def test_an_event_comes_back_from_the_store_as_it_went_in(data: bytes | None) -> None:
    event = AuditEvent(
        event_id="e1", name="action.reported", at_ms=5, tenant=TenantId("acme"), principal="key_1",
        request_id=RequestId("r"), session=SessionId("s"), data={"outcome": "failed", "exit_code": None, "tool": "é"},
        bodies={BodyField.REASON: Body(b"\x01" * 32, data)},
    )  # fmt: skip
    assert from_text(to_text(event)) == event


def test_an_event_of_no_request_comes_back_too() -> None:
    event = AuditEvent("e2", "policy.changed", 5, TenantId("system"), "gatehouse", data={"models": ["a", "b"]})
    assert from_text(to_text(event)) == event

"""What an ingress replica shows before anything has happened: what alerts count is there, what nobody told is not."""

import math
from types import SimpleNamespace
from typing import cast

import pytest
from prometheus_client import CollectorRegistry

from deployments.errors import EngineFailed
from deployments.ingress.trail import Recorder
from deployments.ports import Dialect, ModelId, QueueHealth, Usage
from serve_app.api.gate_health import GateGauges
from serve_app.api.metrics import Counters

IDLE = cast(Recorder, SimpleNamespace(backlog=0, dropped=0))


@pytest.mark.parametrize("dialect", Dialect)
def test_a_burst_of_failures_has_a_sample_before_it(dialect: Dialect) -> None:
    counters, said = Counters(), dialect.value
    failed = ("gatehouse_stream_end_total", {"dialect": said, "outcome": "failed"})
    broken = (
        "gatehouse_requests_total",
        {"dialect": said, "model": "", "status": "stream", "code": EngineFailed.code},
    )
    denied = ("gatehouse_policy_total", {"risk": "R3", "decision": "denied", "dialect": said})
    value = counters.registry.get_sample_value
    assert [value(*each) for each in (failed, broken, denied)] == [0, 0, 0]
    counters.finished(dialect, ModelId("a"), "failed", 1.0, None, Usage(0, 0, 0, 0))
    counters.broken(dialect, EngineFailed("x"))
    assert [value(*each) for each in (failed, broken)] == [1, 1]


def test_a_sink_that_nobody_has_reached_yet_has_no_full_disk() -> None:
    counters = Counters()
    counters.render(IDLE, None)
    assert counters.registry.get_sample_value("gatehouse_audit_up") == 0
    free = counters.registry.get_sample_value("gatehouse_audit_disk_free_bytes")
    assert free is not None
    assert math.isnan(free)


def test_a_store_that_nobody_has_reached_yet_has_given_up_no_messages() -> None:
    registry = CollectorRegistry()
    gauges = GateGauges(registry)
    gauges.tell(None, None)
    assert registry.get_sample_value("gatehouse_approvals_up") == 0
    failed = registry.get_sample_value("gatehouse_approvals_notices_failed")
    assert failed is not None
    assert math.isnan(failed)
    gauges.tell(QueueHealth(0, None, 0, 0, 0, 0, None, 3, ()), None)
    assert registry.get_sample_value("gatehouse_approvals_notices_failed") == 3

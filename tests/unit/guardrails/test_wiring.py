"""Guardrails in the configuration and in the metrics."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from deployments.guardrails.values import Action, Detector, Direction, Found
from serve_app.api.guard_metrics import GuardCounters, make_guard_meter
from serve_app.api.metrics import Counters
from serve_app.app import parts
from serve_app.config import ConfigError, parse_config

MODELS = [{"tier": "20b", "engine": {"kind": "synthetic", "model": "demo-20b", "revision": "r1"}}]


def test_a_configuration_has_guardrails() -> None:
    config = parse_config({"models": MODELS, "guardrails": {"tenants": {"acme": {"pii": {"input": "mask"}}}}}, "here")
    assert parts(config).guardrails.of("acme").pii.input is Action.MASK
    assert parts(config).guardrails.of("other").pii.input is Action.OFF


def test_a_wrong_word_is_named() -> None:
    with pytest.raises(ConfigError, match=r"guardrails\.default\.pii\.output"):
        parse_config({"models": MODELS, "guardrails": {"default": {"pii": {"output": "keep_local"}}}}, "here")


def test_metrics_have_kinds_and_no_words() -> None:
    registry = CollectorRegistry()
    meter = GuardCounters(registry)
    meter.looked(Direction.INPUT, 0.001)
    meter.found(Direction.INPUT, [Found(Detector.PII, "email", Action.MASK, 2)])
    meter.failed(Direction.OUTPUT, {Detector.SECRETS: "timeout"}, refused=True)
    text = generate_latest(registry).decode()
    labels = 'action="mask",detector="pii",direction="input",kind="email"'
    assert f"gatehouse_guardrail_findings_total{{{labels}}} 2.0" in text
    assert 'gatehouse_guardrail_failures_total{detector="secrets",direction="output",outcome="refused"} 1.0' in text
    assert 'gatehouse_guardrail_seconds_count{direction="input"} 1.0' in text


def test_they_are_shown_beside_the_others() -> None:
    counters = Counters()
    make_guard_meter(counters).looked(Direction.INPUT, 0.001)
    assert b"gatehouse_guardrail_seconds" in generate_latest(counters.registry)

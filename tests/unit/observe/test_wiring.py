"""What the configuration says of traces and logs, and what becomes of it."""

import logging

import pytest

from deployments.ingress.tracing import Untraced
from serve_app.app import make_tracing, parts, set_up_logs
from serve_app.config import ROOT, load_serve_file, parse_config
from serve_app.observe.logs import JsonFormatter
from serve_app.observe.settings import LogSettings, TracingSettings
from tests.fakes import BASE, ScriptedEngine

LOCAL = load_serve_file(ROOT / "configs" / "serve.local.yaml").app


def test_the_shipped_configuration_traces_nothing_and_sends_nothing() -> None:
    made = parts(LOCAL)
    tracing = made.make_tracing()
    assert isinstance(tracing, Untraced)
    engine = ScriptedEngine([])
    assert tracing.engine(BASE, engine) is engine


def test_an_endpoint_makes_traces() -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra otel is not installed")
    tracing = make_tracing(TracingSettings(endpoint="http://127.0.0.1:9/v1/traces"))
    assert not isinstance(tracing, Untraced)
    tracing.close()


def test_settings_of_a_file_reach_the_ingress() -> None:
    app = parse_config(
        {**LOCAL.model_dump(mode="json"), "tracing": {"ratio": 0.5, "service": "edge"}, "logs": {"encoding": "json"}},
        "test",
    )
    assert (app.tracing.endpoint, app.tracing.ratio, app.tracing.service) == (None, 0.5, "edge")
    logger = logging.getLogger("gatehouse")
    before = (logger.propagate, logger.level)
    try:
        parts(app).set_up()
        (handler,) = [each for each in logger.handlers if isinstance(each.formatter, JsonFormatter)]
        logger.removeHandler(handler)
    finally:
        logger.propagate, logger.level = before


def test_text_is_left_as_it_is() -> None:
    before = list(logging.getLogger("gatehouse").handlers)
    set_up_logs(LogSettings())
    assert logging.getLogger("gatehouse").handlers == before

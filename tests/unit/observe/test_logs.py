"""Logs: no text of an exception is in them; as JSON a line is an object."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
from starlette.requests import Request

from deployments.errors import EngineFailed
from serve_app.api.errors import log_unexpected
from serve_app.observe.logs import write_json

SECRET = "my password is hunter2"


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    logger = logging.getLogger("gatehouse")
    before = (logger.propagate, logger.level)
    stream = io.StringIO()
    handler = write_json(stream)
    yield stream
    logger.removeHandler(handler)
    logger.propagate, logger.level = before


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_object(written: io.StringIO) -> None:
    logging.getLogger("gatehouse.audit").warning("kept %d events\nof two lines", 3)
    (line,) = lines(written)
    assert line.pop("time")
    assert line == {"level": "WARNING", "logger": "gatehouse.audit", "message": "kept 3 events\nof two lines"}


def test_the_text_of_an_exception_is_not_written(written: io.StringIO) -> None:
    try:
        try:
            raise KeyError(SECRET)
        except KeyError as error:
            raise ValueError(SECRET) from error
    except ValueError:
        logging.getLogger("gatehouse").exception("a bug")
    (line,) = lines(written)
    assert SECRET not in written.getvalue()
    assert (line["error"], line["message"]) == ("ValueError", "a bug")
    assert "test_the_text_of_an_exception_is_not_written" in str(line["at"])


def test_a_bug_is_told_without_its_text_however_the_log_is_written(caplog: pytest.LogCaptureFixture) -> None:
    asked = Request({"type": "http", "method": "POST", "path": "/v1/x\nERROR all is lost", "headers": []})
    try:
        try:
            raise KeyError(SECRET)
        except KeyError as error:
            raise ValueError(SECRET) from error
    except ValueError as error:
        log_unexpected(error, asked, "req_1")
    assert SECRET not in caplog.text
    assert "ValueError" in caplog.text
    assert "test_a_bug_is_told_without_its_text" in caplog.text
    assert "req_1" in caplog.text
    assert not [line for line in caplog.text.splitlines() if line.startswith("ERROR all")]


def test_our_own_errors_are_told_by_their_code(written: io.StringIO) -> None:
    try:
        raise EngineFailed(SECRET)
    except EngineFailed:
        logging.getLogger("gatehouse.ingress").exception("failed")
    assert lines(written)[0]["error"] == "upstream_error"
    assert SECRET not in written.getvalue()


def test_writing_again_moves_the_log_and_doubles_nothing(written: io.StringIO) -> None:
    other = io.StringIO()
    handler = write_json(other)
    try:
        logging.getLogger("gatehouse").error("once")
        assert (len(lines(other)), len(lines(written))) == (1, 0)
    finally:
        logging.getLogger("gatehouse").removeHandler(handler)

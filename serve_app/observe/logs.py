"""Logs as one JSON object a line, without a word of a request.

Gatehouse's own messages hold none (that is a rule of the code). What could bring one in is an exception: its text may
quote what it failed on. So of exceptions the class and the places are written, and their text only where it was made
for clients.
"""

import json
import logging
import traceback
from datetime import UTC, datetime
from typing import Final, TextIO

from deployments.errors import name_of

_FRAMES: Final = 20
NAMES: Final = ("gatehouse",)


class JsonFormatter(logging.Formatter):
    """`time` (UTC, milliseconds), `level`, `logger`, `message`; with an exception `error` and `at`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, object] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            line["error"] = name_of(error)
            places = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
            line["at"] = [f"{place.filename}:{place.lineno} {place.name}" for place in places]
        return json.dumps(line, ensure_ascii=False)


def write_json(stream: TextIO) -> logging.Handler:
    """From now on Gatehouse's loggers write JSON to `stream`, and to nobody else. The handler, for who takes it off."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    for name in NAMES:
        logger = logging.getLogger(name)
        for old in [each for each in logger.handlers if isinstance(each.formatter, JsonFormatter)]:
            logger.removeHandler(old)
        logger.addHandler(handler)
        logger.propagate = False  # a handler of Ray's would write the exception's text beside it
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)
    return handler

"""How commands end that need no server: without a configuration and an HTTP client, unlike those of `client.py`."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Final, NoReturn

import typer

_STOPS: Final = (signal.SIGTERM, signal.SIGHUP)


def fail(message: str, code: int = 2) -> NoReturn:
    """Print one sentence to stderr and leave with `code`."""
    typer.echo(f"gatehouse: {message}", err=True)
    raise typer.Exit(code)


@contextmanager
def putting_away() -> Generator[None]:
    """Lets a command that is told to stop put away what it made, as Ctrl-C does; also when its terminal is gone.

    A signal that is ignored (`nohup`) stays so. A second one changes nothing: what is put away may be keys.
    """
    if threading.current_thread() is not threading.main_thread():  # Python has signals in no other one
        yield
        return
    before = {number: signal.getsignal(number) for number in _STOPS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    del frame
    for each in _STOPS:
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)

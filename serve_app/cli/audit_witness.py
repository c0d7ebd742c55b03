"""`gatehouse audit witness`: run a witness for somebody's log."""

import asyncio
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from deployments.audit.notes import ED25519, BadKey, VerifierKey, parse_verifier_key
from deployments.audit.witness import BadState, Witness, WitnessLocked
from deployments.clock import SystemClock
from serve_app.cli.offline import fail

_BACKLOG = 128
_MAX_CONNECTIONS = 256


def witness(
    state: Annotated[Path, typer.Option(help="Directory of its own, on a disk of its own: what it saw, and its key.")],
    log_key: Annotated[
        list[str] | None,
        typer.Option(help="Verifier key of a log, or @FILE such as the log's log.vkey; repeatable."),
    ] = None,
    listen: Annotated[str, typer.Option(help="HOST:PORT; port 0 takes a free one.")] = "127.0.0.1:8900",
    key: Annotated[Path | None, typer.Option(help="Its signing key; by default witness.key in the state.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of a key that is made now, such as example.org/w1.")] = None,
    key_only: Annotated[bool, typer.Option("--key-only", help="Make the key, print it, and leave.")] = False,
) -> None:
    """Run a witness (C2SP tlog-witness): it cosigns checkpoints of the logs it knows, and only consistent ones.

    Prints its verifier key, which goes into the log's configuration. Exit status: 1 its state could not be written,
    2 it could not start.
    """
    log_keys = [found for text in log_key or [] for found in _log_keys(text)]
    if not log_keys and not key_only:
        fail("no log to witness: pass --log-key.")
    address = None if key_only else _address(listen)
    clock = SystemClock()
    try:
        opened = Witness(state, log_keys, clock, key_file=key, name=name)
    except (WitnessLocked, BadState) as error:
        fail(str(error))
    except BadKey as error:
        fail(f"the witness's key cannot be used: {error}.")
    except OSError as error:
        fail(f"{error.filename or state} cannot be used: {error.strerror}.")
    try:
        typer.echo(str(opened.verifier))
        if address is not None:
            _serve(opened, clock, address)
    finally:
        failure = opened.failure
        opened.close()
    if failure is not None:
        fail(failure, 1)


def _serve(opened: Witness, clock: SystemClock, address: tuple[str, int]) -> None:
    # Only here: verifying a log must work where no server is installed.
    try:
        import uvicorn

        from serve_app.witness import create_witness_app
    except ModuleNotFoundError as error:
        fail(f"a witness needs the extra `serve`: {error.name} is missing.")
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        fail(f"cannot listen on {host}:{port}: {error.strerror or error}.")

    def stop() -> None:
        server.should_exit = True

    app = create_witness_app(opened, clock, stop)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=_MAX_CONNECTIONS,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=5,
        )
    )
    bound = listening.getsockname()[1]
    with listening:
        typer.echo(f"witness on http://{f'[{host}]' if ':' in host else host}:{bound}", err=True)
        try:
            asyncio.run(server.serve(sockets=[listening]))
        except KeyboardInterrupt:
            return


def _log_keys(text: str) -> Sequence[VerifierKey]:
    """The log keys in an argument: one key, or @FILE with one a line, where witnesses' keys are passed over."""
    lines = [text]
    if text.startswith("@"):
        try:
            lines = Path(text[1:]).read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            fail(f"{text[1:]} cannot be read: {reason}.")
    try:
        keys = [parse_verifier_key(line) for line in lines]
    except BadKey as error:
        fail(f"--log-key {text[:80]}: {error}.")
    found = [each for each in keys if each.algorithm == ED25519]
    if not found:
        fail(f"--log-key {text[:80]}: there is no log's key in it.")
    return found


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65_535:
        fail(f"--listen {text}: not HOST:PORT.")
    return host, int(port)


def register(app: typer.Typer) -> None:
    """Add the command to the `audit` app."""
    app.command("witness")(witness)

"""`gatehouse-run`: execute a command under a permit of the gate, serve as an agent's shell, take a call back."""

import argparse
import asyncio
import hashlib
import os
import platform
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from deployments.clock import SystemClock
from deployments.gate.display import escaped
from deployments.gate.permits import BadPermit
from deployments.ports import JsonValue
from serve_app.runner.execute import STDOUT
from serve_app.runner.house import House, Refused, Unavailable, pinned
from serve_app.runner.profile import CannotRun, working_directory
from serve_app.runner.settings import OUTPUT_BYTES, TIMEOUT_S, BadSettings, RunnerSettings
from serve_app.runner.takeback import Back, TakeBack
from serve_app.runner.work import NotRun, Ran, Runner, Verdict

USAGE, UNAVAILABLE, HELD, BAD_PERMIT, DENIED, BY_HAND = 64, 69, 75, 76, 77, 78
"""Exit statuses of our own (sysexits.h where it has one); 124, 126 and 127 are as in a shell."""

_COMMANDS = ("rollback", "pin")
_HELP = (
    f"exit status: that of the command; {USAGE} usage, {UNAVAILABLE} the gate does not answer, {HELD} held, "
    f"{BAD_PERMIT} the permit proves nothing, {DENIED} denied, {BY_HAND} taken back but to be verified by hand, "
    "124 time is over, 126 and 127 as in a shell"
)
_URL = "http://127.0.0.1:8000"


def run() -> None:
    """The `gatehouse-run` script."""
    # Not by way of `serve_app.config`: all settings of a house are 0.2 s to import, for every command that is run.
    sys.exit(main(sys.argv[1:], dict(os.environ)))  # noqa: TID251


def main(argv: Sequence[str], variables: Mapping[str, str]) -> int:
    """Exit status of one invocation."""
    given = _parse(argv)
    try:
        settings = _settings(given, variables)
        return asyncio.run(_guarded(given, settings, variables))
    except BadSettings as error:
        return _say(str(error), USAGE)
    except CannotRun as error:
        return _say(str(error), error.code)
    except BadPermit as error:
        return _say(f"nothing was executed. {error}", BAD_PERMIT)
    except Refused as error:
        return _say(f"nothing was executed: {error}", DENIED)
    except Unavailable as error:
        return _say(f"nothing was executed: {error}", UNAVAILABLE)
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130


async def _guarded(given: argparse.Namespace, settings: RunnerSettings, variables: Mapping[str, str]) -> int:
    """SIGTERM ends the command, and is reported, as Ctrl-C is."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    house = House(settings.url, settings.key)
    try:
        return await _work(given, settings, variables, house)
    finally:
        await house.aclose()


async def _work(given: argparse.Namespace, settings: RunnerSettings, variables: Mapping[str, str], house: House) -> int:
    if given.pin:
        found = await pinned(house, settings.pins, again=True)
        keys = found.get("keys")
        return _say(f"pinned {len(keys) if isinstance(keys, list) else 0} keys in {settings.pins}", 0)
    runner = Runner(settings, house, SystemClock(), variables)
    if given.mcp:
        try:
            from serve_app.runner.mcp_server import serve
        except ModuleNotFoundError:
            raise BadSettings("--mcp needs the extra 'runner': pip install 'gatehouse[runner]'") from None
        await serve(runner, given.tool_name)
        return 0
    if given.rollback is not None:
        return await _take_back(given.rollback, settings, variables, house, runner)
    done = await runner.run(_arguments(given, settings), _write, _tell)
    return _end(done)


async def _take_back(
    permit_id: str, settings: RunnerSettings, variables: Mapping[str, str], house: House, runner: Runner
) -> int:
    found = await TakeBack(runner, house, settings, variables)(permit_id, _write, _tell)
    match found.back:
        case Back.DONE:
            return _say("taken back, and verified", 0)
        case Back.FAILED:
            return _say("the way back failed; what is left of it can be tried again", 1)
        case Back.BY_HAND:
            what = escaped(found.verify or "")
            return _say(f"every step is done. Verify by hand, then report the rollback: {what}", BY_HAND)
        case Back.STOPPED:
            return _not_run(found.not_run) if found.not_run is not None else 1


def _end(done: Ran | NotRun) -> int:
    if isinstance(done, NotRun):
        return _not_run(done)
    ended = done.ended
    if done.notice is not None:
        _say(done.notice, 0)
    if ended.dropped_bytes:
        _say(f"{ended.dropped_bytes} bytes of output were dropped", 0)
    if ended.timed_out:
        _say("the command was ended because its time was over", 0)
    if done.unreported is not None:
        _say(f"the end of {done.permit_id} could not be reported: {done.unreported}", 0)
    return ended.status


def _not_run(done: NotRun) -> int:
    reasons = "".join(f"\n  {escaped(reason)}" for reason in done.reasons)
    if done.verdict is Verdict.HELD:
        _say(f"held: waits for approval {done.approval_id}. {done.missing}{reasons}", 0)
        return _say("once it is approved, run the same command again", HELD)
    return _say(f"denied: nothing was executed.{reasons}", DENIED)


def _arguments(given: argparse.Namespace, settings: RunnerSettings) -> dict[str, JsonValue]:
    """The call, in the words that an agent would use; its directory is relative to the root."""
    words: list[str] = given.words
    if (given.text is None) == (not words):
        raise BadSettings("name one command, as words after '--' or as a text after -c")
    command: JsonValue = given.text if given.text is not None else list[JsonValue](words)
    found: dict[str, JsonValue] = {"command": command}
    root = settings.root.resolve()
    where = working_directory(given.cwd or str(Path.cwd()), root).relative_to(root)
    if str(where) != ".":
        found["cwd"] = str(where)
    if given.timeout is not None:
        found["timeout_s"] = given.timeout
    return found


def _settings(given: argparse.Namespace, variables: Mapping[str, str]) -> RunnerSettings:
    key = variables.get("GATEHOUSE_KEY", "").strip()
    if not key:  # never the operator's own: a runner is in an agent's hands
        raise BadSettings("no key: set GATEHOUSE_KEY to the key of the agent that this runner works for")
    url = variables.get("GATEHOUSE_URL", _URL).rstrip("/")
    home = Path(variables.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    name = hashlib.sha256(url.encode()).hexdigest()[:16]
    return RunnerSettings(
        url=url,
        key=key,
        root=Path(given.root or variables.get("GATEHOUSE_RUN_ROOT") or Path.cwd()).resolve(),
        audience=given.audience or f"gatehouse-run@{platform.node() or 'localhost'}",
        pins=given.jwks or home / "gatehouse-run" / f"{name}.jwks.json",
        session=given.session or variables.get("GATEHOUSE_RUN_SESSION") or None,
        wait_s=_seconds(given.wait, variables.get("GATEHOUSE_RUN_WAIT")),
        timeout_s=given.timeout or TIMEOUT_S,
        output_bytes=given.output_bytes,
        pass_env=tuple(given.pass_env),
        path=tuple(given.path),
        offline=given.offline,
    )


def _seconds(given: float | None, variable: str | None) -> float:
    if given is not None:
        return given
    try:
        return float(variable) if variable else 0.0
    except ValueError:
        raise BadSettings("GATEHOUSE_RUN_WAIT is not a number of seconds") from None


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="gatehouse-run",
        description="Execute one command under one permit of the gate. `gatehouse-run rollback PERMIT_ID` takes an "
        "executed call back, `gatehouse-run pin` trusts the gate's present keys.",
        usage="gatehouse-run [options] (-c TEXT | --mcp | rollback PERMIT_ID | pin | -- COMMAND [ARGUMENT ...])",
        epilog=_HELP,
        allow_abbrev=False,
    )
    parser.add_argument("-c", "-lc", dest="text", metavar="TEXT", help="a text for bash")
    parser.add_argument("--cwd", help="where to run it; inside the root")
    parser.add_argument("--root", help="the directory that nothing leaves; default: GATEHOUSE_RUN_ROOT, or this one")
    parser.add_argument("--session", help="the session that held calls belong to")
    parser.add_argument("--wait", type=float, metavar="SECONDS", help="how long to wait for an approval; default: 0")
    parser.add_argument("--timeout", type=int, metavar="SECONDS", help="how long a command may take; default: 600")
    parser.add_argument("--audience", help="the name of this runner, for its permits")
    parser.add_argument("--jwks", type=Path, metavar="FILE", help="the gate's pinned keys")
    parser.add_argument("--pass-env", action="append", default=[], metavar="NAME", help="a variable to hand on")
    parser.add_argument("--path", action="append", default=[], metavar="DIR", help="a directory of programs")
    parser.add_argument("--output-bytes", type=int, default=OUTPUT_BYTES, metavar="N")
    parser.add_argument("--no-offline", dest="offline", action="store_false", help="leave local calls the network")
    parser.add_argument("--mcp", action="store_true", help="serve as an MCP server over stdio")
    parser.add_argument("--tool-name", default="run", help="what the MCP tool is called")
    own, words = _split(argv)
    command: str | None = None
    for place, word in enumerate(own):
        if word in _COMMANDS and (place == 0 or own[place - 1] not in _VALUED):
            command, own = word, [*own[:place], *own[place + 1 :]]
            break
    if command == "rollback":
        parser.add_argument("rollback", metavar="PERMIT_ID")
    given = parser.parse_args(own)
    given.rollback = given.rollback if command == "rollback" else None
    given.pin = command == "pin"
    given.words = words
    return given


_VALUED = frozenset({
    "-c", "-lc", "--cwd", "--root", "--session", "--wait", "--timeout", "--audience", "--jwks", "--pass-env", "--path",
    "--output-bytes", "--tool-name",
})  # fmt: skip


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Our own words, and those of the command after the first `--`."""
    words = list(argv)
    if "--" not in words:
        return words, []
    place = words.index("--")
    return words[:place], words[place + 1 :]


def _write(stream: int, data: bytes) -> None:
    out = (sys.stdout if stream == STDOUT else sys.stderr).buffer
    with suppress(BrokenPipeError):  # nobody reads any more; the command still runs to its end
        out.write(data)
        out.flush()


async def _tell(message: str) -> None:
    _say(message, 0)


def _say(message: str, status: int) -> int:
    with suppress(BrokenPipeError):
        print(f"gatehouse-run: {message}", file=sys.stderr, flush=True)
    return status

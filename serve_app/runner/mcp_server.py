"""`gatehouse-run --mcp`: one tool over stdio, to be an agent's only shell.

The arguments go to the gate exactly as the agent gave them: what was approved in its stream is claimed here.
"""

import re
from collections.abc import Mapping
from typing import Any, cast

from mcp import types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

from deployments.gate.permits import BadPermit
from deployments.ports import JsonValue
from serve_app.runner.house import Refused, Unavailable
from serve_app.runner.profile import CannotRun
from serve_app.runner.work import NotRun, Ran, Runner, Verdict

_DESCRIPTION = (
    "Runs a bash command and answers with what it prints. Every command is judged by a policy gate first: reading and "
    "testing flow, a dangerous command waits for a human. A held command has not been executed; say so, and continue "
    "with something else or wait for the approval and call again with exactly the same command."
)
_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "command": {"type": "string", "minLength": 1, "description": "The command, as bash reads it."},
        "cwd": {"type": "string", "description": "Where to run it, relative to the workspace. Default: its root."},
        "timeout_s": {"type": "integer", "minimum": 1, "description": "Seconds after which it is ended."},
    },
    "required": ["command"],
    "additionalProperties": False,
}
_HIDDEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def make_server(runner: Runner, name: str = "run") -> Server[Any]:
    """The server. `name` is what its tool is called."""

    async def list_tools(
        ctx: ServerRequestContext[Any], params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        del ctx, params
        tool = types.Tool(name=name, description=_DESCRIPTION, input_schema=dict(_SCHEMA))
        return types.ListToolsResult(tools=[tool])

    async def call_tool(ctx: ServerRequestContext[Any], params: types.CallToolRequestParams) -> types.CallToolResult:
        if params.name != name:
            return _failed(f"There is no tool '{params.name[:64]}'.")
        given = cast("dict[str, JsonValue]", params.arguments or {})
        wrong = _wrong(given)
        if wrong is not None:
            return _failed(wrong)
        printed: list[bytes] = []
        told = 0

        async def progress(message: str) -> None:
            nonlocal told
            told += 1
            await ctx.session.report_progress(float(told), None, message)

        try:
            done = await runner.run(given, lambda _stream, data: printed.append(data), progress)
        except CannotRun as error:
            return _failed(f"The command was not executed: {error}.")
        except (BadPermit, Refused) as error:
            return _failed(f"The command was not executed. {error}")
        except Unavailable as error:
            return _failed(f"The command was not executed, because the gate does not answer: {error}")
        match done:
            case NotRun():
                return _failed(_why(done))
            case Ran():
                return _result(done, b"".join(printed))

    return Server("gatehouse-run", on_list_tools=list_tools, on_call_tool=call_tool)


async def serve(runner: Runner, name: str) -> None:
    """Serve over stdin and stdout until the client goes."""
    server = make_server(runner, name)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


def _wrong(given: Mapping[str, JsonValue]) -> str | None:
    """What of the arguments is not as the schema says; the gate would hold it, and nobody could approve it usefully."""
    command, cwd, timeout_s = given.get("command"), given.get("cwd"), given.get("timeout_s")
    if given.keys() - {"command", "cwd", "timeout_s"}:
        return "The tool takes 'command', 'cwd' and 'timeout_s', and nothing else."
    if not isinstance(command, str) or not command.strip():
        return "'command' must be a text that is not empty."
    if "cwd" in given and not isinstance(cwd, str):
        return "'cwd' must be a text."
    good = isinstance(timeout_s, int) and not isinstance(timeout_s, bool) and timeout_s > 0
    return "'timeout_s' must be a positive whole number." if "timeout_s" in given and not good else None


def _why(done: NotRun) -> str:
    reasons = "; ".join(done.reasons)
    if done.verdict is Verdict.HELD:
        return (
            f"HELD: the command was not executed. It waits for approval {done.approval_id}: {done.missing} "
            f"Reasons: {reasons}. Once it is approved, call again with exactly the same arguments."
        )
    return f"DENIED: the command was not executed, and will not be. Reasons: {reasons}."


def _result(ran: Ran, printed: bytes) -> types.CallToolResult:
    ended = ran.ended
    text = _HIDDEN.sub("", printed.decode("utf-8", "replace"))
    notes: list[str] = []
    if ended.dropped_bytes:
        notes.append(f"{ended.dropped_bytes} more bytes of output were dropped")
    if ended.timed_out:
        notes.append("the command was ended because its time was over")
    if ran.notice is not None:
        notes.append(ran.notice)
    if ran.unreported is not None:
        notes.append(f"its end could not be reported: {ran.unreported}")
    notes.append(f"exit status {ended.status}")
    body = f"{text}\n[{'; '.join(notes)}]" if text else f"[{'; '.join(notes)}]"
    return types.CallToolResult(content=[types.TextContent(type="text", text=body)], is_error=ended.status != 0)


def _failed(text: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)], is_error=True)

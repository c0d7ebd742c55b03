"""Programs that a repository's settings put into `git diff` and `git log`, taken out of them.

Git has no setting that turns them off: an empty one is an error. So each one that is configured is replaced, by the
comparison or the text that git would have shown without it.
"""

import asyncio
from dataclasses import replace

from deployments.gate.commands import Command
from serve_app.runner.profile import CannotRun, Prepared, switches

_PATTERN = r"^diff\.(.*\.)?(command|textconv|external)$"
_PLAIN_DIFF = 'plain() { diff -u --label "a/$1" --label "b/$1" -- "$2" "$5" || true; }; plain'
_PATIENCE_S = 5.0


async def without_drivers(prepared: Prepared, command: Command) -> Prepared:
    """The same command with every such program switched off. Fails towards running none: see `_configured`."""
    words = command if isinstance(command, str) else " ".join(command)
    if "git" not in words:
        return prepared
    names = await _configured(prepared)
    if not names:
        return prepared
    more = [(name, "cat" if name.endswith(".textconv") else _PLAIN_DIFF) for name in names]
    return replace(prepared, env={**prepared.env, **switches(more)})


async def _configured(prepared: Prepared) -> list[str]:
    """The settings that name such programs; reading settings runs nothing. None where there is no git.

    Raises `CannotRun` where git does not answer in time.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            "git", "config", "--null", "--name-only", "--get-regexp", _PATTERN,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=prepared.cwd,
            env=dict(prepared.env),
        )  # fmt: skip
    except OSError:
        return []
    try:
        async with asyncio.timeout(_PATIENCE_S):
            found, _ = await process.communicate()
    except TimeoutError:  # what it would run is not known, so nothing is run
        raise CannotRun("git did not answer in time which programs its settings name", 126) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return sorted({name.decode("utf-8", "surrogateescape") for name in found.split(b"\0") if name})

"""A network namespace without a network, where the platform has one."""

import asyncio
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.runner.profile import PATH

_PROBE_S = 10.0


@dataclass(frozen=True, slots=True)
class Isolation:
    """How to run a command without a network: `prefix` goes before its words. `reason` says why it cannot be done."""

    prefix: tuple[str, ...] = ()
    reason: str | None = None


async def probe() -> Isolation:
    """Try it once: many containers allow no new namespaces, and other systems have none."""
    unshare = shutil.which("unshare", path=PATH)
    if unshare is None:
        return Isolation(reason="there is no `unshare` on this machine")
    prefix = (unshare, "--user", "--map-current-user", "--net", "--")
    if await _works([*prefix, "true"]):
        return Isolation(prefix)
    return Isolation(reason="this machine lets nobody make a network namespace")


async def _works(argv: Sequence[str]) -> bool:
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env={"PATH": PATH},
        )
    except OSError:
        return False
    try:
        async with asyncio.timeout(_PROBE_S):
            return await process.wait() == 0
    except TimeoutError:
        process.kill()
        await process.wait()
        return False

"""What a runner is told: where Gatehouse is, where it may work, and how long anything may take."""

import re
from dataclasses import dataclass, field
from pathlib import Path

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Each of these can make a harmless program run something else, or change what the profile fixes.
_CODE = re.compile(
    r"(PATH|ENV|BASH.*|LD_.*|DYLD_.*|GIT_.*|PYTHON.*|PERL.*|RUBY.*|NODE_OPTIONS|JAVA_TOOL_OPTIONS|_JAVA_OPTIONS|IFS|SHELLOPTS"
    r"|PS[0-9]|PROMPT_COMMAND|.*PAGER|.*EDITOR|VISUAL|LESS.*|LESSOPEN|SSH_ASKPASS|SUDO_ASKPASS|TERM|GATEHOUSE_.*)"
)
TIMEOUT_S, MAX_TIMEOUT_S = 600, 3600
OUTPUT_BYTES = 8 * 1024 * 1024


class BadSettings(Exception):
    """The runner cannot work like this; the text is one sentence for whoever started it."""


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """Where a runner belongs, and its limits.

    `root` is the directory that it never leaves; `audience` the name that its permits are for. `pass_env` are names of
    variables beyond the short list that every command gets, `path` directories in front of the fixed search path.
    `output_bytes` is how much of a command's output is handed on; its digest covers all of it. `address_space_bytes`,
    `file_bytes` and `cpu_s` are limits of one command. `offline`: calls that the gate calls local get no network.
    """

    url: str
    key: str = field(repr=False)
    root: Path
    audience: str
    pins: Path
    session: str | None = None
    wait_s: float = 0.0
    timeout_s: int = TIMEOUT_S
    output_bytes: int = OUTPUT_BYTES
    cpu_s: int = 3600
    address_space_bytes: int = 64 * 1024**3
    file_bytes: int = 16 * 1024**3
    pass_env: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    offline: bool = True

    def __post_init__(self) -> None:
        if not self.root.is_absolute() or not self.root.is_dir():
            raise BadSettings("the runner's root is not a directory that exists")
        for name in self.pass_env:
            if not _NAME.fullmatch(name) or _CODE.fullmatch(name):
                raise BadSettings(f"the variable '{name[:64]}' is never passed on: it can change what a command does")
        for directory in self.path:
            if not directory.startswith("/") or ":" in directory:
                raise BadSettings("a directory of the search path is not absolute")
        if not 0 < self.timeout_s <= MAX_TIMEOUT_S:
            raise BadSettings(f"a command may take 1 to {MAX_TIMEOUT_S} s")

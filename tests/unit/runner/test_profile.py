"""What a command finds, and what becomes of it: real processes, no network and no gate."""

import asyncio
import hashlib
import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from deployments.clock import FixedClock
from deployments.gate.commands import Command, Run
from serve_app.runner import git_drivers
from serve_app.runner.execute import STDERR, STDOUT, Ended, execute
from serve_app.runner.git_drivers import without_drivers
from serve_app.runner.network import Isolation, probe
from serve_app.runner.profile import PATH, CannotRun, prepare, working_directory
from serve_app.runner.settings import BadSettings, RunnerSettings
from tests.processes import alive, cut_off


def settings(root: Path, **changes: object) -> RunnerSettings:
    made = RunnerSettings("http://gatehouse", "gh-key", root, "here", root / "pins.json")
    return replace(made, **changes)  # type: ignore[arg-type]


class Printed:
    def __init__(self) -> None:
        self.out = b""
        self.err = b""
        self.all = b""

    def __call__(self, stream: int, data: bytes) -> None:
        self.all += data
        if stream == STDOUT:
            self.out += data
        else:
            assert stream == STDERR
            self.err += data


async def ran(
    root: Path,
    command: Command,
    timeout_s: float = 60.0,
    environment: dict[str, str] | None = None,
    isolation: Isolation | None = None,
    **changes: object,
) -> tuple[Ended, Printed]:
    given, printed = settings(root, **changes), Printed()
    prepared = prepare(Run(command), given, environment or {})
    prepared = await without_drivers(prepared, command)
    return await execute(prepared, given, FixedClock(), printed, timeout_s, isolation), printed


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


# --- environment -----------------------------------------------------------------------------------------------------


async def test_a_command_finds_nothing_of_its_caller_but_a_short_list(tmp_path: Path) -> None:
    given = {
        "HOME": "/home/ann", "LANG": "C.UTF-8", "GATEHOUSE_KEY": "gh-secret", "LD_PRELOAD": "/evil.so", "PATH": "/evil",
        "BASH_ENV": "/evil.sh", "ENV": "/evil.sh", "GIT_SSH_COMMAND": "evil", "PYTHONSTARTUP": "/evil.py",
        "AWS_KEY": "x", "PAGER": "evil", "PROMPT_COMMAND": "evil", "BASH_FUNC_ls%%": "() { evil; }",
    }  # fmt: skip
    ended, printed = await ran(tmp_path, "env -0", environment=given)
    found = dict(each.split("=", 1) for each in printed.out.decode().split("\0") if each)
    assert ended.status == 0
    assert (found["HOME"], found["PATH"], found["PAGER"], found["GIT_PAGER"]) == ("/home/ann", PATH, "cat", "cat")
    assert (found["LESSSECURE"], found["GIT_TERMINAL_PROMPT"], found["TERM"]) == ("1", "0", "dumb")
    assert not {"evil" in value for value in found.values()} & {True}
    assert not {"GATEHOUSE_KEY", "LD_PRELOAD", "BASH_ENV", "ENV", "AWS_KEY"} & found.keys()


async def test_what_the_operator_names_is_handed_on(tmp_path: Path) -> None:
    ended, printed = await ran(
        tmp_path, "echo $AWS_PROFILE", environment={"AWS_PROFILE": "dev"}, pass_env=("AWS_PROFILE",)
    )
    assert (ended.status, printed.out) == (0, b"dev\n")


@pytest.mark.parametrize(
    "name", ["LD_PRELOAD", "PATH", "BASH_ENV", "GIT_DIR", "PYTHONPATH", "GATEHOUSE_KEY", "PAGER", "a b", "A=B", ""]
)
def test_what_could_change_a_command_is_never_handed_on(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadSettings):
        settings(tmp_path, pass_env=(name,))


async def test_there_is_no_terminal_and_no_input(tmp_path: Path) -> None:
    _, printed = await ran(tmp_path, "test -t 0 || echo none; cat; (: < /dev/tty) 2>/dev/null || echo no tty")
    assert printed.out == b"none\nno tty\n"


async def test_no_start_up_file_is_read(tmp_path: Path) -> None:
    for name in (".bashrc", ".bash_profile", ".profile"):
        (tmp_path / name).write_text("echo started\n")
    _, printed = await ran(tmp_path, "echo ran", environment={"HOME": str(tmp_path)})
    assert printed.out == b"ran\n"


async def test_programs_come_from_the_fixed_path_alone(tmp_path: Path) -> None:
    trap = tmp_path / "ls"
    trap.write_text("#!/bin/sh\necho trapped\n")
    trap.chmod(0o755)
    for command in ("ls", ("ls",)):
        _, printed = await ran(tmp_path, command, environment={"PATH": str(tmp_path)})
        assert printed.out == b"ls\n"
    _, printed = await ran(tmp_path, ("ls",), path=(str(tmp_path),))
    assert printed.out == b"trapped\n"


async def test_words_are_not_read_by_a_shell(tmp_path: Path) -> None:
    words = ("printf", "%s|", "$HOME", "a b", "*", ";id", "$(id)", "`id`", "--", "")
    _, printed = await ran(tmp_path, words)
    assert printed.out.decode() == "".join(f"{word}|" for word in words[2:])


@pytest.mark.parametrize(
    ("command", "code"), [(("no-such-program",), 127), (("./no-such",), 127), (("./file",), 126), (("./dir",), 126)]
)
def test_a_program_that_is_not_there_cannot_run(tmp_path: Path, command: Command, code: int) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "dir").mkdir()
    with pytest.raises(CannotRun) as caught:
        prepare(Run(command), settings(tmp_path), {})
    assert caught.value.code == code


# --- where it runs ---------------------------------------------------------------------------------------------------


def test_the_working_directory_lies_in_the_root_links_followed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "link").symlink_to(root / "sub")
    (root / "out").symlink_to(tmp_path)
    (root / "file").write_text("x")
    (tmp_path / "root2").mkdir()
    assert working_directory(None, root) == root
    assert working_directory("link", root) == working_directory(str(root / "sub"), root) == root / "sub"
    for outside in ("..", "out", "/", "sub/../../root2", str(tmp_path), "nowhere", "file", "a\0b"):
        with pytest.raises(CannotRun):
            working_directory(outside, root)


# --- git -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository whose settings run a program at every turn; it leaves a file behind when it runs."""
    tree = tmp_path / "tree"
    tree.mkdir()
    trap = tmp_path / "trap.sh"
    trap.write_text(f'#!/bin/sh\ntouch {tmp_path}/trapped\ncat "$1" 2>/dev/null\nexit 0\n')
    trap.chmod(0o755)
    plain = {"HOME": str(tmp_path), "PATH": PATH}

    def git(*words: str) -> None:
        subprocess.run(["git", *words], cwd=tree, env=plain, check=True, capture_output=True)

    git("init", "-q")
    git("config", "user.email", "a@b")
    git("config", "user.name", "ann")
    (tree / ".gitattributes").write_text("*.txt diff=foo\n*.bin diff=bar\n")
    (tree / "a.txt").write_text("a\n")
    (tree / "b.bin").write_text("a\n")
    (tree / "c.md").write_text("a\n")
    git("add", ".")
    git("commit", "-qm", "first")
    for name in ("a.txt", "b.bin", "c.md"):
        (tree / name).write_text("a\nb\n")
    for name in ("diff.foo.textconv", "diff.bar.command", "core.fsmonitor", "core.pager", "core.editor"):
        git("config", name, str(trap))
    for hook in ("pre-commit", "post-commit", "post-checkout", "post-index-change"):
        (tree / ".git" / "hooks" / hook).write_text(trap.read_text())
        (tree / ".git" / "hooks" / hook).chmod(0o755)
    return tree


@pytest.mark.parametrize(
    "command",
    ["git status", "git diff", "git log -p", "git show", ("git", "diff"), "git commit -qam second", "git stash -q"],
)
async def test_what_a_repository_wants_run_is_not(repository: Path, command: Command) -> None:
    ended, _ = await ran(repository, command, environment={"HOME": str(repository.parent)})
    assert ended.status == 0
    assert not (repository.parent / "trapped").exists()


async def test_a_difference_looks_as_without_the_programs(repository: Path) -> None:
    with (repository / ".git" / "config").open("a") as config:
        config.write(f"[diff]\n\texternal = {repository.parent}/trap.sh\n")
    ended, printed = await ran(repository, "git diff", environment={"HOME": str(repository.parent)})
    assert ended.status == 0
    assert not (repository.parent / "trapped").exists()
    text = printed.out.decode()
    assert text.count("+b\n") == 3
    assert all(f"+++ b/{name}" in text for name in ("a.txt", "b.bin", "c.md"))


def test_the_traps_are_real(repository: Path) -> None:
    subprocess.run(
        ["git", "diff"], cwd=repository, env={"PATH": PATH, "HOME": str(repository.parent)}, check=True,
        capture_output=True,
    )  # fmt: skip
    assert (repository.parent / "trapped").exists()


# --- bounds ----------------------------------------------------------------------------------------------------------


async def test_output_beyond_the_cap_is_dropped_and_still_in_the_digest(tmp_path: Path) -> None:
    ended, printed = await ran(tmp_path, "head -c 300000 /dev/zero", output_bytes=1000)
    assert printed.all == b"\0" * 1000
    assert (ended.printed_bytes, ended.dropped_bytes) == (300_000, 299_000)
    assert ended.output_digest == hashlib.sha256(b"\0" * 300_000).digest()


async def test_both_pipes_are_handed_on_and_hashed(tmp_path: Path) -> None:
    ended, printed = await ran(tmp_path, "echo out; echo err >&2; exit 3")
    assert (printed.out, printed.err, ended.status, ended.exit_code) == (b"out\n", b"err\n", 3, 3)
    assert ended.output_digest == hashlib.sha256(printed.all).digest()


async def test_time_ends_a_command_with_all_that_it_started(tmp_path: Path) -> None:
    command = "sleep 1000 & echo $!; trap '' TERM; while :; do sleep 1000; done"
    printed, timeout_s = Printed(), 0.25
    while not printed.out.endswith(b"\n"):  # a busy machine may not have got that far
        timeout_s *= 2
        ended, printed = await ran(tmp_path, command, timeout_s=timeout_s)
        assert (ended.timed_out, ended.status) == (True, 124)
    await until(lambda: not alive(int(printed.out)))


async def test_what_a_command_leaves_in_the_background_is_ended_with_it(tmp_path: Path) -> None:
    ended, printed = await ran(tmp_path, "sleep 1000 & echo $!")
    assert (ended.status, ended.timed_out) == (0, False)
    await until(lambda: not alive(int(printed.out)))


async def test_a_process_that_left_the_group_does_not_hold_the_runner(tmp_path: Path) -> None:
    _, printed = await ran(tmp_path, "setsid sleep 1000 & echo $!")
    pid = int(printed.out)
    if alive(pid):
        os.kill(pid, signal.SIGKILL)


async def test_a_cancelled_caller_leaves_no_process(tmp_path: Path) -> None:
    printed = Printed()
    given = settings(tmp_path)
    prepared = prepare(Run("echo $$; sleep 1000"), given, {})
    task = asyncio.create_task(execute(prepared, given, FixedClock(), printed, 60.0))
    await until(lambda: printed.out.endswith(b"\n"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not alive(int(printed.out)))


async def test_a_caller_cancelled_while_the_command_starts_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid, given = tmp_path / "pid", settings(tmp_path)
    prepared = prepare(Run(f"sleep 1000 & echo $! > {pid}; wait"), given, {})
    child = await cut_off(execute(prepared, given, FixedClock(), Printed(), 60.0), pid, monkeypatch)
    await until(lambda: not alive(child))


async def test_git_that_does_not_answer_in_time_keeps_the_command_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git_drivers, "_PATIENCE_S", 0.0)
    with pytest.raises(CannotRun, match="git did not answer in time"):
        await ran(tmp_path, "git diff")


@pytest.mark.parametrize(
    ("command", "changes"),
    [
        ("head -c 200000 /dev/zero > big", {"file_bytes": 100 * 1024}),
        ("x=$(head -c 200m /dev/zero | tr '\\0' a)", {"address_space_bytes": 64 * 1024**2}),
        ("while :; do :; done", {"cpu_s": 1}),
    ],
)
async def test_limits_end_a_command(tmp_path: Path, command: str, changes: dict[str, object]) -> None:
    ended, _ = await ran(tmp_path, command, **changes)
    assert ended.status != 0
    assert not ended.timed_out


async def test_a_signal_is_told_as_a_shell_tells_it(tmp_path: Path) -> None:
    ended, _ = await ran(tmp_path, "kill -9 $$")
    assert (ended.exit_code, ended.status) == (-9, 137)


async def test_no_network_where_the_machine_allows_it(tmp_path: Path) -> None:
    isolation = await probe()
    if isolation.reason is not None:
        pytest.skip(isolation.reason)
    ended, printed = await ran(tmp_path, "cat /proc/net/dev | tail -n +3 | cut -d: -f1; id -u", isolation=isolation)
    assert ended.status == 0
    assert printed.out.decode().split() == ["lo", str(os.getuid())]

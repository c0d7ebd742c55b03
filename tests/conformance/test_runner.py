"""`gatehouse-run --mcp` as an agent's only shell, configured word for word as `docs/runner.md` says."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from serve_app.config import ROOT
from tests.conformance.conftest import NOTE
from tests.conformance.task import Task
from tests.conformance.upstream import AFTER, Asked, Call, Say, Step

DOCUMENT = (ROOT / "docs" / "runner.md").read_text()
PROGRAMS = Path(sys.executable).parent
SHELLS = frozenset({"exec_command", "write_stdin", "shell", "local_shell", "Bash", "bash"})


def documented(language: str, root: Path) -> str:
    """The one block of the document in this language and about the runner, for a workspace."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    (found,) = [each for each in blocks if "gatehouse" in each]
    assert "/srv/project" in found or "mcp__gatehouse__run" in found
    return found.replace("/srv/project", str(root))


def codex(it: Task) -> Mapping[str, str]:
    with (it.place.home / ".codex" / "config.toml").open("a") as file:
        file.write("\n" + documented("toml", it.folder))
    return {}


def claude_code(it: Task) -> Mapping[str, str]:
    (it.place.home / ".claude").mkdir()
    (it.place.home / ".claude" / "settings.json").write_text(documented("json", it.folder))
    (line,) = re.findall(r"`(claude mcp add [^`]+)`", DOCUMENT)
    words = shlex.split(line.replace("/srv/project", str(it.folder)))
    command = [str(it.client.program), *words[1:]]
    environment = {"HOME": str(it.place.home), "PATH": f"{PROGRAMS}:/usr/bin:/bin"}
    subprocess.run(command, cwd=it.folder, env=environment, check=True, capture_output=True, timeout=60)
    settings = dict(re.findall(r"`(MCP_[A-Z_]+)=(\d+)`", DOCUMENT))
    assert settings.keys() == {"MCP_TOOL_TIMEOUT", "MCP_TIMEOUT", "MCP_CONNECTION_NONBLOCKING"}
    return settings


def opencode(it: Task) -> Mapping[str, str]:
    (it.folder / "opencode.json").write_text(documented("jsonc", it.folder))
    return {}


def names(asked: Asked) -> Sequence[str]:
    return [str(tool["function"]["name"]) for tool in asked.tools]


def run(asked: Asked, command: str) -> Call:
    """A call of the runner, whatever the client calls its tool."""
    found = [each for each in names(asked) if re.fullmatch(r".*gatehouse.*run", each)]
    assert len(found) == 1, f"the runner is not among {names(asked)}"
    return Call(found[0], {"command": command})


@pytest.mark.parametrize(
    ("name", "configure"),
    [("codex", codex), ("claude-code", claude_code), ("opencode", opencode)],
    ids=["codex", "claude-code", "opencode"],
)
def test_its_only_shell_is_the_runner(task, name: str, configure: Callable[[Task], Mapping[str, str]]) -> None:
    with task(name, "runner", "--hold-s", "60") as begun:
        environment: dict[str, str] = {}

        class Configured(type(begun.client)):
            """The client with the runner beside what `gatehouse client-config` writes."""

            def configure(self, place):
                found = super().configure(place)
                key = {"GATEHOUSE_URL": place.url, "GATEHOUSE_KEY": place.key}
                environment.update(found, **key, **configure(begun), PATH=f"{PROGRAMS}:/usr/local/bin:/usr/bin:/bin")
                return environment

        client = Configured(**{each: getattr(begun.client, each) for each in begun.client.__dataclass_fields__})
        if name == "claude-code":  # what it may do is what the document's settings allow
            client = replace(client, arguments=("-p",))
        it = replace(begun, client=client)

        def play(asked: Asked) -> Step:
            assert not SHELLS & set(names(asked)), f"it has a shell of its own: {names(asked)}"
            match asked.results:
                case []:
                    return Say(reasoning="I look.", calls=(run(asked, "cat note.txt"),))
                case [read]:
                    assert NOTE in read, read
                    assert "[exit status 0]" in read, read
                    return Say(reasoning="Now it goes.", calls=(run(asked, "rm doomed.txt"),))
                case [_, removed]:
                    assert "[exit status 0]" in removed, removed
                    return Say(text=AFTER)
                case more:
                    raise AssertionError(f"{len(more)} results")

        with it.house.approving() as approved:
            ran = it.run(play, "Read note.txt, then remove doomed.txt.")
        assert ran.exit_code == 0, ran.text[-2000:]
        assert AFTER in ran.output, ran.text[-2000:]
        assert len(approved) == 1, "approved in the stream, claimed by the runner"
        assert not (it.folder / "doomed.txt").exists()
        assert it.row.requests == 3

"""The job itself: an agent reads a repository, patches a file and runs its tests, under the gate profile for coding."""

import subprocess

import pytest

from tests.conformance.upstream import AFTER, Asked, Call, Say, Step

BUGGY = "def add(a, b):\n    return a - b\n"
TESTS = """import unittest

from calc import add


class Adding(unittest.TestCase):
    def test_two_and_two(self):
        self.assertEqual(add(2, 2), 4)
"""
PATCH = """*** Begin Patch
*** Update File: calc.py
@@
 def add(a, b):
-    return a - b
+    return a + b
*** End Patch
"""


def codex(asked: Asked, folder: str) -> Call:
    del folder
    return Call(str(asked.tool("apply_patch")["name"]), {"input": PATCH})


def claude_code(asked: Asked, folder: str) -> Call:
    edit = {"file_path": f"{folder}/calc.py", "old_string": "return a - b", "new_string": "return a + b"}
    return Call(str(asked.tool("Edit")["name"]), edit)


def opencode(asked: Asked, folder: str) -> Call:
    edit = {"filePath": f"{folder}/calc.py", "oldString": "return a - b", "newString": "return a + b"}
    return Call(str(asked.tool("edit")["name"]), edit)


def read(asked: Asked, folder: str) -> Call:
    """With the client's own tool, where it wants to have read what it edits."""
    offered = {str(tool["function"]["name"]) for tool in asked.tools}
    if "Read" in offered:
        return Call("Read", {"file_path": f"{folder}/calc.py"})
    if "read" in offered:
        return Call("read", {"filePath": f"{folder}/calc.py"})
    return asked.shell("cat calc.py")


@pytest.mark.parametrize(("name", "edit"), [("codex", codex), ("claude-code", claude_code), ("opencode", opencode)])
def test_an_agent_reads_patches_and_tests_a_repository(task, name: str, edit) -> None:
    with task(name, "repair", "--gate-profile", "coding") as it:
        (it.folder / "calc.py").write_text(BUGGY)
        (it.folder / "test_calc.py").write_text(TESTS)
        subprocess.run(["git", "init", "-q", "."], cwd=it.folder, check=True)
        before = {each["id"] for each in it.house.waiting()}

        def play(asked: Asked) -> Step:
            match asked.results:
                case []:
                    look = (asked.shell("ls"), read(asked, str(it.folder)))
                    return Say(reasoning="I look at the repository.", calls=look)
                case [*found] if len(found) == 2:
                    assert any("return a - b" in each for each in found)
                    return Say(reasoning="The sign is wrong.", calls=(edit(asked, str(it.folder)),))
                case [_, _, _]:
                    return Say(calls=(asked.shell("python3 -m unittest -q"),))
                case [_, _, _, verdict]:
                    assert "OK" in verdict, verdict
                    assert "FAILED" not in verdict
                    return Say(text=AFTER)
                case more:
                    raise AssertionError(f"{len(more)} results")

        ran = it.run(play, "Adding is broken. Repair it and run the tests.")
        assert ran.exit_code == 0
        assert AFTER in ran.output
        assert "return a + b" in (it.folder / "calc.py").read_text()
        assert it.row.requests == 4
        assert {each["id"] for each in it.house.waiting()} == before  # the standing plan covers all of it

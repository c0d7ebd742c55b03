"""`docs/policies.md`: every example is run."""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.gate.bundle import example_faults
from deployments.gate.cases import case_faults, judged, read_cases
from deployments.gate.policy import Bundle, read_policy
from deployments.gate.shell.reader import ShellReader
from deployments.gate.specs import PRINTED
from deployments.gate.tables import SHIPPED_A, SHIPPED_B, Base, Env
from deployments.ports import GateProfile
from serve_app.cli.main import app

PAGE = Path(__file__).resolve().parents[3] / "docs" / "policies.md"
TEXT = PAGE.read_text(encoding="utf-8")
HEADER = "version: 1\nname: mine\nextends: default\n"
BLOCK = re.compile(r"^```(yaml|json|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Example:
    """A part of a bundle and the cases that follow it, under its heading."""

    heading: str
    bundle: str
    cases: str

    def write(self, directory: Path) -> tuple[Path, Path]:
        path, cases = directory / "mine.yaml", directory / "cases.jsonl"
        path.write_text(self.bundle if "version:" in self.bundle else HEADER + self.bundle)
        cases.write_text(self.cases)
        return path, cases


def examples() -> Iterator[Example]:
    found = list(BLOCK.finditer(TEXT))
    for block, following in zip(found, found[1:], strict=False):
        if block[1] == "yaml":
            assert block[2].startswith("# mine.yaml\n")
            assert following[1] == "json"
            heading = re.findall(r"^##+ (.*)$", TEXT[: block.start()], re.MULTILINE)[-1]
            yield Example(heading, block[2], following[2])


EXAMPLES = list(examples())


def test_there_are_examples_of_each_kind_of_thing() -> None:
    assert {"A host", "A branch", "Paths", "A program", "A stricter rule", "A tool"} <= {
        each.heading for each in EXAMPLES
    }
    kinds = {kind for kind, _ in BLOCK.findall(TEXT)}
    assert kinds == {"yaml", "json", "console"}
    assert TEXT.count("```") == 2 * len(BLOCK.findall(TEXT))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.heading)
def test_an_example_does_what_it_says(tmp_path: Path, bundle: Bundle, example: Example) -> None:
    path, cases_path = example.write(tmp_path)
    mine, cases = read_policy(path), read_cases(cases_path)
    assert example_faults(mine) == []
    assert case_faults(mine, cases) == []
    assert all(case.risk or case.outcome for case in cases)
    reader = ShellReader(20.0)
    pairs = zip(judged(bundle, cases, reader), judged(mine, cases, reader), strict=True)
    assert any(
        (before.risk, before.outcome, before.rules, before.standing)
        != (after.risk, after.outcome, after.rules, after.standing)
        for before, after in pairs
    )


def test_the_consoles_say_what_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    EXAMPLES[0].write(tmp_path)
    monkeypatch.chdir(tmp_path)
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    for block in (body for kind, body in BLOCK.findall(TEXT) if kind == "console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *expected = part.rstrip("\n").split("\n")
            words = shlex.split(command)
            if words[0] == "gatehouse":
                output = CliRunner().invoke(app, words[1:]).output
            else:
                output = subprocess.run(words, capture_output=True, text=True, check=True).stdout
            pattern = ".*".join(re.escape(line).replace(r"\.\.\.", ".*") for line in expected)
            assert re.search(pattern, output, re.DOTALL), f"{command}\n{output}"


def test_the_tables_are_the_shipped_ones() -> None:
    section = TEXT.split("**Table A**, as shipped")[1].split("**Table B**")[0]
    rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in section.splitlines() if "|" in line][2:]
    told = {
        (Base(base), env): cells
        for bases, envs, *cells in rows
        for base in bases.split(", ")
        for env in (Env if envs == "any" else [Env(envs)])
    }
    assert set(told) == {(cell[0], cell[1]) for cell in SHIPPED_A}
    for (base, env), cells in told.items():
        assert cells == [risk.value for cell, risk in SHIPPED_A.items() if cell[:2] == (base, env)]
    section = TEXT.split("**Table B**, as shipped")[1].split("*Covered*")[0]
    for profile in GateProfile:
        [row] = [line for line in section.splitlines() if line.startswith(f"| `{profile.value}`")]
        cells = [cell.strip() for cell in row.strip("|").split("|")][1:]
        assert cells == [outcome.value for (each, _), outcome in SHIPPED_B.items() if each is profile]


def test_cases_on_the_page_are_json() -> None:
    for kind, body in BLOCK.findall(TEXT):
        if kind == "json":
            assert [json.loads(line) for line in body.splitlines()]


def test_every_kind_of_output_is_told() -> None:
    [told] = re.findall(r"`kind` is what each line is: (.*?)\. ", TEXT, re.DOTALL)
    assert set(re.findall(r"`([a-z-]+)`", told)) == PRINTED

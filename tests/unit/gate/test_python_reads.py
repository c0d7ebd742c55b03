"""Python one-liners: what is proven to read and print only does so when it runs, and what does more is not proven."""

import ast
import gzip
import json
import random
import subprocess
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployments.gate.python_names import ATTRIBUTES, BUILTINS, GUARDED, MODULES, NEVER, SPECIAL
from deployments.gate.python_paths import Place
from deployments.gate.python_reads import reads
from tests.unit.gate.python_programs import LONGER, MORE, MORE_LONGER, READS

ORACLE = Path(__file__).with_name("python_oracle.py")
PIPED = '{"name": "n", "status": "ok", "items": [{"name": "i", "metadata": {"name": "m"}}]}\n'
FILES = {
    "package.json": '{"version": "1.2.3", "scripts": {"a": "b"}, "dependencies": {"x": "1"}}',
    "data.json": '[{"n": 1, "kind": "a"}, {"n": 2, "kind": "b"}]',
    "lines.jsonl": '{"level": "error"}\n{"level": "info"}\n',
    "rows.csv": "city,n\nBern,1\nWien,2\n",
    "conf.yaml": "services:\n  web: {port: 80}\n",
    "pyproject.toml": '[project]\nname = "x"\nversion = "1"\n',
    "setup.cfg": "[metadata]\nname = x\n",
    "cov.xml": '<coverage line-rate="0.9"><class name="a"/></coverage>',
    "notes.txt": "# one\ninfo: two 22\nerror: three\n",
    "mod.py": 'import os\nfrom sys import path\n\ndef f():\n    """Doc."""\n',
    "sub/a.json": "[1, 2]",
    "sub/b.txt": "b\n",
    "secret.txt": "what no program here names\n",
}


@pytest.fixture
def fixtures(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "log.gz").write_bytes(gzip.compress(b"one line\n"))
    return tmp_path


def asked(directory: Path, table: list[tuple[str, list[str], str]]) -> list[str]:
    """What the oracle says of each program of a table, in its order."""
    modules = [*MODULES, "_strptime", "zipfile", "email.message"]
    (directory / "table.json").write_text(json.dumps({"modules": modules, "programs": table}))
    words = [sys.executable, "-W", "ignore", str(ORACLE), str(directory / "table.json")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    found: list[str] = json.loads(done.stdout)
    return found


def observed(directory: Path, programs: Iterable[str]) -> dict[str, str]:
    """What each program that is proven harmless was stopped at when it ran, in `directory`; empty where at nothing."""
    table: list[tuple[str, list[str], str]] = []
    for program in programs:
        found = reads(program)
        assert found is not None
        table.append((program, [place.text for place in found.places], PIPED))
    stopped = asked(directory, table)
    assert set(FILES) | {"table.json", "log.gz"} == {
        str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()
    }
    return dict(zip((row[0] for row in table), stopped, strict=True))


@pytest.mark.parametrize("program", [*READS, *LONGER])
def test_what_only_reads_is_proven(program: str) -> None:
    assert reads(program) is not None


@pytest.mark.parametrize("program", [*MORE, *MORE_LONGER])
def test_what_does_more_is_not(program: str) -> None:
    assert reads(program) is None
    # Nor when the names that it takes from nowhere are known.
    assert reads(f"x = y = z = m = q = f = g = p = q = unknown = chr(47)\n{program}") is None


@pytest.mark.parametrize("program", [*MORE, *MORE_LONGER])
def test_it_is_not_proven_behind_harmless_code_either(program: str) -> None:
    harmless = "import json\nprint(json.load(open('package.json')))"
    assert reads(f"{harmless}\n{program}") is None


def test_that_which_is_proven_does_no_more_when_it_runs(fixtures: Path) -> None:
    stopped = {program: why for program, why in observed(fixtures, [*READS, *LONGER]).items() if why}
    assert stopped == {}


def test_the_oracle_stops_what_does_more(fixtures: Path) -> None:
    """An oracle that never stops anything would prove nothing."""
    rows = [
        ("open('x', 'w')", "opened for writing: 'x'"),
        ("open('secret.txt')", "opened: 'secret.txt'"),
        ("import os; os.system('true')", "os.system"),
        ("import os; os.rename('a', 'b')", "os.rename"),
        ("import subprocess; subprocess.run(['true'])", "subprocess.Popen"),
        ("import socket; socket.socket()", "socket.__new__"),
        ("eval('1')", "compile by the program"),
        ("exec('1')", "compile by the program"),
        ("import mod", "imported mod"),
        ("from pathlib import Path; Path('a').replace('b')", "os.rename"),
        ("import xml.etree.ElementTree as E; E.parse('cov.xml').write('b')", "opened for writing: 'b'"),
        ("import ast; ast.parse('\\nx = =', 'secret.txt')", "opened: 'secret.txt'"),
        ("print(1)", ""),
    ]
    assert asked(fixtures, [(program, ["cov.xml"], "") for program, _ in rows]) == [why for _, why in rows]


# --- programs made of parts ------------------------------------------------------------------------------------------

_NAMES = sorted(
    {"open", "type", "eval", "json", "Path", "print", "sys", "os", "f", "d", "data", "p", "str", "map", "t"}
)
_ATTRIBUTES = sorted(ATTRIBUTES | GUARDED)
_DANGEROUS = [
    "__class__", "__globals__", "__dict__", "system", "modules", "path", "environ", "unlink", "rename", "write_text",
    "touch", "open", "write", "read", "replace", "copy", "read_text", "glob", "parse", "load", "walk", "listdir",
    "append", "getroot", "func", "parent", "joinpath",
]  # fmt: skip
_TEXTS = ["w", "r", "a+", "package.json", "secret.txt", "../secret.txt", "{0.real}", "x", "/etc/passwd", "*", "sub"]


class _Mutation(ast.NodeTransformer):
    """Changes about one in eight of a program's names, attributes, texts and arguments, as `chance` has it."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance

    def _hit(self) -> bool:
        return self.chance.random() < 0.12

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name(self.chance.choice(_NAMES), node.ctx) if self._hit() else node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        if self._hit():
            node.attr = self.chance.choice(_ATTRIBUTES if self.chance.random() < 0.5 else _DANGEROUS)
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if self._hit() and isinstance(node.value, str):
            return ast.Constant(self.chance.choice(_TEXTS))
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if self._hit():
            node.args = self.chance.choice([node.args[1:], [*node.args, ast.Constant("w")], [*node.args[::-1]]])
        elif self._hit():
            return node.func
        elif self._hit() and node.args:
            return ast.Call(node.args[0], [node.func], [])
        return node


def _grafted(chance: random.Random, tree: ast.Module, donors: Sequence[ast.expr]) -> None:
    """Puts expressions of other programs in the place of some arguments."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args and chance.random() < 0.15:
            node.args[chance.randrange(len(node.args))] = chance.choice(donors)


def _mutants(seed: int, count: int) -> list[str]:
    chance = random.Random(seed)
    programs = [*READS, *LONGER]
    donors = [node for program in programs for node in ast.walk(ast.parse(program)) if isinstance(node, ast.Call)]
    found: list[str] = []
    for _ in range(count):
        first, second = chance.choice(programs), chance.choice(programs)
        tree = ast.parse(f"{first}\n{second}" if chance.random() < 0.4 else first)
        _grafted(chance, tree, donors)
        try:
            found.append(ast.unparse(ast.fix_missing_locations(_Mutation(chance).visit(tree))))
        except (ValueError, AttributeError):
            continue  # not a program any more
    return found


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_proven_of_changed_programs_does_no_more(fixtures: Path, seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd programs: "str object is not callable"
        proven = [program for program in dict.fromkeys(_mutants(seed, 2_000)) if reads(program) is not None]
    assert len(proven) > 100
    stopped = {program: why for program, why in observed(fixtures, proven).items() if why}
    assert stopped == {}


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    before=st.lists(st.sampled_from(READS), max_size=3),
    hostile=st.sampled_from(MORE),
    after=st.lists(st.sampled_from(READS), max_size=2),
    shape=st.sampled_from(
        ["{}", "if 0:\n    {}", "def wrapped():\n    {}", "for _ in []:\n    {}", "while 0:\n    {}"]
    ),
)
def test_no_harmless_code_around_it_makes_a_program_harmless(
    before: list[str], hostile: str, after: list[str], shape: str
) -> None:
    program = "\n".join([*before, shape.replace("{}", hostile), *after])
    assert reads(program) is None


@pytest.mark.parametrize("name", sorted(NEVER))
def test_names_that_do_more_are_no_values(name: str) -> None:
    for program in (f"x = {name}", f"print({name})", f"list(map({name}, ['a']))", f"{name} = 1", f"f'{{{name}}}'"):
        assert reads(program) is None, program


def test_tables_do_not_contradict_each_other() -> None:
    assert not BUILTINS & NEVER
    assert not BUILTINS & SPECIAL
    assert not ATTRIBUTES & GUARDED
    assert not any(name.startswith("_") for name in ATTRIBUTES | GUARDED | BUILTINS)
    assert not any(f"{module}.{name}" in SPECIAL for module, names in MODULES.items() for name in names)
    assert not any(f"{module}.{name}" in MODULES for module, names in MODULES.items() for name in names)


# --- what is read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "places"),
    [
        ("print(1)", []),
        ("print(open(0).read())", []),
        ("open('a')", [Place("a")]),
        ("open('~/a')", [Place("~/a")]),
        ("import os; open(os.path.expanduser('~/.ssh/id_rsa'))", [Place("~/.ssh/id_rsa", home=True)]),
        ("from pathlib import Path; Path('~/.netrc').expanduser().read_text()", [Place("~/.netrc", home=True)]),
        ("d = 'a'; open(d + '/.env')", [Place("a/.env")]),
        ("d = 'a'; open(f'{d}/{d}')", [Place("a/a")]),
        ("import os; open(os.path.join('a', '/etc/shadow'))", [Place("/etc/shadow")]),
        ("from pathlib import Path; (Path('a') / '/etc' / 'shadow').read_text()", [Place("/etc/shadow")]),
        ("f = 'a'; f = 'b'; open(f)", [Place("a"), Place("b")]),
        ("for f in ['a', 'b']: open(f)", [Place("a"), Place("b")]),
        ("fs = ('a', 'b')\nfor f in fs: open(f)", [Place("a"), Place("b")]),
        ("[open(d + f) for d in ['x/', 'y/'] for f in 'a', ]".replace("'a', ", "['a']"), [Place("x/a"), Place("y/a")]),
        ("import os; os.listdir('/root')", [Place("/root")]),
        ("import os; os.listdir()", [Place(".")]),
        ("import os; list(os.walk('/home'))", [Place("/home")]),
        ("import glob; glob.glob('a/*.pem')", [Place("a/*.pem", glob=True)]),
        ("import glob; [open(f) for f in glob.glob('*.env')]", [Place("*.env", glob=True)]),
        # `pathlib` finds hidden files too.
        (
            "from pathlib import Path; [p.read_text() for p in Path('d').glob('*.env')]",
            [Place("d"), Place("d/*.env", glob=True), Place("d/.env")],
        ),
        (
            "from pathlib import Path; list(Path('d').rglob('*.x'))",
            [Place("d"), Place("d/**/*.x", glob=True), Place("d/**/.x", glob=True), Place("d/*.x", glob=True),
             Place("d/.x")],
        ),
        (
            "from pathlib import Path; list(Path('d').iterdir())",
            [Place("d"), Place("d/*", glob=True), Place("d/.*", glob=True)],
        ),
        ("import configparser; configparser.ConfigParser().read('a')", [Place("a")]),
        ("import gzip; gzip.open('a')", [Place("a")]),
        ("import xml.etree.ElementTree as E; E.parse('a').getroot()", [Place("a")]),
        # A fault of the text is shown with the line of the file that it is said to come from.
        ("import ast; ast.parse('x', '/etc/shadow')", [Place("/etc/shadow")]),
        ("import ast; ast.parse('x', filename='/etc/shadow')", [Place("/etc/shadow")]),
        ("open('a*b')", [Place("a*b")]),
    ],
)  # fmt: skip
def test_the_files_that_a_program_reads_are_told(program: str, places: list[Place]) -> None:
    found = reads(program)
    assert found is not None
    assert list(found.places) == places


def test_a_tilde_that_is_not_expanded_is_a_name() -> None:
    assert [Place("~/a").shown, Place("~/a", home=True).shown, Place("a").shown] == ["./~/a", "~/a", "a"]


@pytest.mark.parametrize("links", [30, 60, 300])
def test_names_that_stand_for_two_names_each_are_no_work_without_end(links: int) -> None:
    program = "".join(f"a{link} = a{link + 1} + a{link + 1}\n" for link in range(links))
    assert reads(f"{program}a{links} = 'x'\nopen(a0)") is None


def test_the_modules_are_told() -> None:
    found = reads("import json, os.path\nfrom collections import Counter\nimport xml.etree.ElementTree as E")
    assert found is not None
    assert found.modules == ("collections", "json", "os.path", "xml.etree.ElementTree")

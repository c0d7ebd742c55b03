"""Mutants of the decision code: each must make a test fail. The survivors are printed; each is a missing test.

One operator, constant, condition or return of the deciding modules is changed at a time, in a child process that puts
the changed functions in place of the real ones and runs the tests named here. The bundle is read once, before.

    python -m tests.gate.mutation --modules tables decide judge --limit 300
"""

import argparse
import ast
import gc
import importlib
import inspect
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

from deployments.gate.bundle import check_examples, load_bundle
from deployments.gate.classify import Classifier
from deployments.gate.grammar import BundleError
from deployments.gate.policy import Bundle
from deployments.gate.shell import parse, reader
from deployments.gate.shell.atoms import Atom, Unprovable
from deployments.gate.shell.reader import ShellReader
from deployments.ports import JsonValue
from tests.gate.mutate import corpus

MODULES = (
    "tables", "decide", "states", "people", "freezer", "frozen_view", "permits", "permit_rows", "permit_moves",
    "permit_store", "office", "database", "guard", "specs", "policy", "lint", "circumstances", "tenant_names", "sql",
    "findings", "judge", "operands", "roles", "paths", "feeds", "globs", "addresses",
    "outputs", "scripts", "classify",
    "shell.agree", "shell.reduce", "shell.calls", "shell.loops", "shell.words", "shell.arithmetic", "shell.walk",
    "shell.pieces", "shell.expand", "shell.tree", "shell.names", "shell.atoms", "shell.reader", "shell.portable",
)  # fmt: skip
OFFICE = ["test_permit_rules_office.py", "test_permits_office.py", "test_permits_retries.py"]
# The fastest first: most changes die there.
TESTS = {
    "tables": ["test_tables.py"],
    "decide": ["test_tables.py"],
    "states": ["test_state_rules.py", "test_vote_rules.py", "test_votes.py", "test_approvals.py"],
    "people": ["test_people.py", "test_vote_rules.py", "test_votes.py"],
    "freezer": ["test_freezer_rules.py", "test_freezer.py"],
    "frozen_view": ["test_freezer_rules.py", "test_freezer.py"],
    "permits": ["test_permit_rules.py", "test_permits_signed.py", *OFFICE],
    "permit_rows": OFFICE,
    "permit_moves": OFFICE,
    "permit_store": ["test_permit_rules_store.py", *OFFICE],
    "office": OFFICE,
    "database": ["test_permit_rules_store.py", "test_freezer.py"],
    "guard": ["test_decision_rules.py", "test_guard.py", "test_guard_defects.py"],
    "specs": ["test_bundle_rules.py", "test_bundle.py", "test_extends.py"],
    "policy": ["test_bundle_rules.py", "test_bundle.py", "test_extends.py"],
    "lint": ["test_lint_diff.py"],
    "circumstances": ["test_classify_rules.py", "test_bundle_rules.py", "test_classify.py"],
    "tenant_names": ["test_bundle_rules.py", "test_classify_rules.py", "test_tenant_names.py"],
    "sql": ["test_sql_rules.py", "test_sql.py"],
}
# These need a store, on SQLite here, and no bundle.
STORED = frozenset(
    {"states", "people", "freezer", "frozen_view", "permits", "permit_rows", "permit_moves", "permit_store", "office",
     "database"}
)  # fmt: skip
# Tests of the rules of one module, on bundles of their own: they run first, and alone with `--first`.
RULES = {
    "findings": ["test_finding_rules.py"],
    "judge": ["test_judge_rules.py"],
    "operands": ["test_judge_rules.py"],
    "roles": ["test_role_rules.py"],
    "paths": ["test_path_rules.py"],
    "outputs": ["test_output_rules.py"],
    "feeds": ["test_feed_rules.py"],
    "globs": ["test_glob_rules.py", "test_shell_rules_2.py"],
    "scripts": ["test_script_rules.py", "test_scripts.py"],
    "classify": ["test_classify_rules.py"],
    "guard": ["test_decision_rules.py"],
    "specs": ["test_bundle_rules.py"],
    "policy": ["test_bundle_rules.py"],
    "circumstances": ["test_classify_rules.py", "test_bundle_rules.py"],
    "tenant_names": ["test_bundle_rules.py", "test_classify_rules.py"],
    "sql": ["test_sql_rules.py", "test_sql.py"],
}
# Of what reads the shell: lines and what is read in them, then lines and what is made of them.
SHELL_RULES = ["test_shell_rules_2.py", "test_shell_rules.py", "test_agreement_rules.py"]
SHELL = [*SHELL_RULES, "test_computed.py", "test_lines.py"]
# Fixtures that do not outlive their test: such a test is no plain call.
PASSING = frozenset({"tmp_path", "monkeypatch", "capsys", "caplog"})
JUDGING = ["test_engine.py", "test_paths.py", "test_implied.py", "test_lines.py"]
# Methods whose arguments are words for people, but for those that a decision reads too.
TELLING = frozenset({"unknown", "opaque"})
LIMIT_S = 120
LIMIT_FIRST_S = 120  # the guard's tests wait for what never answers
COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip


@dataclass(frozen=True)
class Change:
    """One change: where it is (`place`: the node, in the order of `ast.walk`), and what it says."""

    module: str
    line: int
    what: str
    place: int


def _words(node: ast.AST) -> Iterator[ast.AST]:
    """What is below strings that `node`, a call such as `notes.append(f"...")`, puts together for people to read.

    Such a string is an argument on the spot, so nothing compares it.
    """
    match node:
        case ast.Call(ast.Attribute(ast.Attribute(attr="notes") | ast.Name("notes" | "reasons"), "append"), args):
            told = args
        case ast.Call(ast.Attribute(attr=name), args) if name in TELLING:
            told = args
        case _:
            return
    for each in told:
        if isinstance(each, ast.JoinedStr):
            yield from ast.walk(each)


def _annotations(node: ast.AST) -> Iterator[ast.AST]:
    """What is below the annotations of `node`: they decide nothing."""
    for field in ("annotation", "returns"):
        if isinstance(found := getattr(node, field, None), ast.AST):
            yield from ast.walk(found)


def _variants(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """What may stand in place of one node."""
    match node:
        case ast.Compare(left, [op], rights) if type(op) in COMPARISONS:
            other = COMPARISONS[type(op)]()
            yield f"{type(op).__name__} -> {type(other).__name__}", ast.Compare(left, [other], rights)
        case ast.BoolOp(op, values):
            swapped = ast.Or() if isinstance(op, ast.And) else ast.And()
            yield f"{type(op).__name__} -> {type(swapped).__name__}", ast.BoolOp(swapped, values)
            for place in range(len(values)):
                rest = [value for at, value in enumerate(values) if at != place]
                less = rest[0] if len(rest) == 1 else ast.BoolOp(op, rest)
                yield f"without operand {place + 1}", less
        case ast.UnaryOp(ast.Not(), operand):
            yield "without not", operand
        case ast.Constant(bool() as value):
            yield f"{value} -> {not value}", ast.Constant(not value)
        case ast.Constant(int() as value):
            yield f"{value} -> {value + 1}", ast.Constant(value + 1)
        case ast.BinOp(left, ast.BitAnd() | ast.BitOr() | ast.Sub() | ast.Add() as op, right):
            others = {ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.Sub: ast.Add, ast.Add: ast.Sub}
            other = others[type(op)]()
            yield f"{type(op).__name__} -> {type(other).__name__}", ast.BinOp(left, other, right)
        case ast.IfExp(_, body, orelse):
            yield "always the first", body
            yield "always the second", orelse
        case ast.If(test, body, orelse):
            yield "never", ast.If(ast.BoolOp(ast.And(), [ast.Constant(False), test]), body, orelse)
        case ast.Call(ast.Name("any"), args, keywords):
            yield "any -> all", ast.Call(ast.Name("all", ast.Load()), args, keywords)
        case ast.Call(ast.Name("all"), args, keywords):
            yield "all -> any", ast.Call(ast.Name("any", ast.Load()), args, keywords)
        case ast.Call(ast.Name("max"), args, keywords):
            yield "max -> min", ast.Call(ast.Name("min", ast.Load()), args, keywords)
        case ast.Expr(ast.Call(ast.Attribute(ast.Attribute(attr="notes")))):
            return  # words for people
        case ast.Expr(ast.Call(ast.Attribute(attr=name))) if name in {"unknown", "opaque", "append", "add"}:
            yield f"without .{name}(...)", ast.Pass()
        case ast.AugAssign():
            yield "without the addition", ast.Pass()
        case ast.match_case(pattern, guard, body) if not (isinstance(guard, ast.Constant) and guard.value is False):
            yield "never this case", ast.match_case(pattern, ast.Constant(False), body)
        case _:
            return


class _Replacer(ast.NodeTransformer):
    def __init__(self, target: ast.AST, new: ast.AST) -> None:
        self.target, self.new = target, new

    def visit(self, node: ast.AST) -> ast.AST:
        if node is self.target:
            return ast.copy_location(self.new, node)
        return super().visit(node)


def changes(module: str) -> Iterator[Change]:
    """Every change of the functions of one module of the gate; words for people are left alone."""
    whole = ast.parse(_source(module))
    functions = [each for each in ast.walk(whole) if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = {id(node) for each in functions for node in ast.walk(each)}
    inside -= {id(word) for each in ast.walk(whole) for word in (*_words(each), *_annotations(each))}
    for place, node in enumerate(ast.walk(whole)):
        if id(node) not in inside:
            continue  # defaults and decorators of classes: they are not put in place
        line = node.pattern.lineno if isinstance(node, ast.match_case) else getattr(node, "lineno", 0)
        for what, _ in _variants(node):
            yield Change(module, line, what, place)


def _source(module: str) -> str:
    imported = importlib.import_module(f"deployments.gate.{module}")
    with open(str(imported.__file__), encoding="utf-8") as file:
        return file.read()


def changed(change: Change) -> ast.Module:
    """The whole module with the change."""
    tree = ast.parse(_source(change.module))
    target = list(ast.walk(tree))[change.place]
    _Replacer(target, dict(_variants(target))[change.what]).visit(tree)
    return ast.fix_missing_locations(tree)


def put_in_place(change: Change) -> None:
    """Give the functions and methods of the module, wherever they are already known, the code of the change."""
    tree = changed(change)
    module = sys.modules[f"deployments.gate.{change.module}"]
    scratch = ModuleType(module.__name__)
    scratch.__dict__.update({"__file__": module.__file__, "__package__": module.__package__})
    sys.modules[module.__name__] = scratch
    try:
        exec(compile(tree, str(module.__file__), "exec"), scratch.__dict__)  # noqa: S102 - our own source
    finally:
        sys.modules[module.__name__] = module
    for name, new in vars(scratch).items():
        old = vars(module).get(name)
        if old is None or getattr(new, "__module__", module.__name__) != module.__name__:
            continue
        if isinstance(new, type) and isinstance(old, type):
            for attribute, function in vars(new).items():
                plain, known = _plain(function), _plain(vars(old).get(attribute))
                if isinstance(plain, FunctionType) and isinstance(known, FunctionType):
                    _take(known, plain)
        elif isinstance(new := _plain(new), FunctionType) and isinstance(old := _plain(old), FunctionType):
            _take(old, new)
        elif not isinstance(old, ModuleType | type) and not callable(old):
            vars(module)[name] = new

    forget()


def _plain(found: object) -> object:
    """The function in a method, a property, or a function that remembers its answers."""
    if isinstance(found, property):
        return found.fget
    if isinstance(found, staticmethod | classmethod):
        return found.__func__
    return getattr(found, "__wrapped__", found) if hasattr(found, "cache_clear") else found


def forget() -> None:
    """Let no function of the gate remember what it answered before the change."""
    for name, module in list(sys.modules.items()):
        if name.startswith("deployments.gate"):
            for each in list(vars(module).values()):
                clear = getattr(each, "cache_clear", None)
                if clear is not None:
                    clear()


def _take(old: FunctionType, new: FunctionType) -> None:
    inside, other = getattr(old, "__wrapped__", None), getattr(new, "__wrapped__", None)
    if isinstance(inside, FunctionType) and isinstance(other, FunctionType):  # below a decorator
        _take(inside, other)
        return
    if len(old.__code__.co_freevars) == len(new.__code__.co_freevars):
        old.__code__, old.__defaults__, old.__kwdefaults__ = new.__code__, new.__defaults__, new.__kwdefaults__


def fixtures(name: str, shell: bool) -> ModuleType:
    """A plug-in with the fixtures of the gate's tests: one bundle, read by the first test that asks for it."""

    @cache
    def given_bundle() -> Bundle:
        return load_bundle(name)

    @cache
    def given_classifier() -> Classifier:
        made = ShellReader(20.0)
        if not shell:
            made.learn(line.command for line in corpus())
        return Classifier(given_bundle(), made)

    plugin = ModuleType("given")
    vars(plugin)["bundle"] = pytest.fixture(scope="session", name="bundle")(lambda: given_bundle())
    vars(plugin)["classifier"] = pytest.fixture(scope="session", name="classifier")(lambda: given_classifier())
    vars(plugin)["given_bundle"] = given_bundle
    return plugin


def keep_readings() -> None:
    """Let every reader of this process and its children find what any of them has read: the parsers are not changed."""
    real = ShellReader.read
    known: dict[str, tuple[Atom, ...] | Unprovable] = {}

    def read(self: ShellReader, text: str) -> tuple[Atom, ...]:
        if text not in known:
            try:
                known[text] = real(self, text)
            except Unprovable as error:
                known[text] = error
        found = known[text]
        if isinstance(found, Unprovable):
            raise Unprovable(str(found))
        return found

    ShellReader.read = read


def keep_trees() -> None:
    """Let every reader find what shfmt made of a text before, and remember nothing of its own: that is what changes."""
    real = parse.syntax_tree
    known: dict[str, dict[str, JsonValue] | Unprovable] = {}

    def tree(text: str, binary: Path | None, timeout_s: float) -> dict[str, JsonValue]:
        if text not in known:
            try:
                known[text] = real(text, binary, timeout_s)
            except Unprovable as error:
                known[text] = error
        found = known[text]
        if isinstance(found, Unprovable):
            raise Unprovable(str(found))
        return found

    parse.syntax_tree = reader.syntax_tree = tree
    reader.MAX_REMEMBERED = 0


class Calls:
    """A plug-in that sets tests up once and keeps them as plain calls: a child runs them without pytest, in no time.

    Fixtures of such tests are values that outlive their test, and owe nothing to what is changed.
    """

    def __init__(self) -> None:
        self.found: list[Callable[[], object]] = []

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Called by pytest in place of running the tests."""
        found = [item for item in session.items if isinstance(item, pytest.Function)]
        items = [item for item in found if PASSING.isdisjoint(item.fixturenames)]
        for item, following in zip(items, [*items[1:], None], strict=True):
            item.ihook.pytest_runtest_setup(item=item)
            names = inspect.signature(item.obj).parameters
            self.found.append(partial(item.obj, **{name: item.funcargs[name] for name in names}))
            item.ihook.pytest_runtest_teardown(item=item, nextitem=following)
        return True


def rules_of(module: str) -> list[str]:
    """The files with the tests of the rules of one module."""
    return RULES.get(module, SHELL_RULES if module.startswith("shell.") else [])


def calls_of(module: str, given: ModuleType) -> list[Callable[[], object]]:
    """The tests of the rules of one module."""
    calls, names = Calls(), rules_of(module)
    options = ["-q", "--noconftest", "-p", "no:cacheprovider", "-p", "no:xdist"]
    if names:
        pytest.main([*(f"tests/unit/gate/{name}" for name in names), *options], plugins=[calls, given])
    return calls.found


def holds(calls: Sequence[Callable[[], object]]) -> bool:
    """True when none of them fails."""
    try:
        for call in calls:
            call()
    except BaseException:  # the outcomes of pytest are no `Exception`
        return False
    return True


def passes(module: str, given: ModuleType) -> bool:
    """Run the tests of one module of the gate in this process."""
    options = ["-x", "-q", "--tb=no", "--no-header", "-p", "no:cacheprovider", "-p", "no:xdist"]
    options += ["-k", "not postgresql"] if module in STORED else ["--noconftest"]
    tests = [f"tests/unit/gate/{name}" for name in TESTS.get(module, SHELL if module.startswith("shell.") else JUDGING)]
    return pytest.main([*tests, *options], plugins=[given]) == 0


def keeps_examples(module: str, bundle: Bundle | None) -> bool:
    """Run the examples of the bundle, as every load of it does; they say nothing of modules with tests of their own."""
    if module in TESTS or bundle is None:
        return True
    try:
        check_examples(bundle)
    except BundleError:
        return False
    return True


def killed(
    change: Change,
    given: ModuleType,
    bundle: Bundle | None,
    rules: Sequence[Callable[[], object]] = (),
    first: bool = False,
) -> str:
    """`killed`, `killed by time`, or `survived`: what tests and examples say in a child process that has the change."""
    child = os.fork()
    if child == 0:
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        code = 1
        try:
            put_in_place(change)
            survives = holds(rules)
            if survives and not first:
                survives = passes(change.module, given) and keeps_examples(change.module, bundle)
            code = 0 if survives else 1
        finally:
            os._exit(code)
    end = time.monotonic() + (LIMIT_FIRST_S if first else LIMIT_S)
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "survived" if os.waitstatus_to_exitcode(status) == 0 else "killed"
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return "killed by time"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modules", nargs="*", default=MODULES)
    parser.add_argument("--limit", type=int, default=0, help="a sample of this many changes; 0: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lines", default="", help="of one module, only these lines, as 10-40")
    parser.add_argument("--bundle", default="default")
    parser.add_argument("--first", action="store_true", help="only the tests of the module's own rules, which are fast")
    args = parser.parse_args()
    shell = any(module.startswith("shell.") for module in args.modules)
    if shell:
        keep_trees()
    else:
        keep_readings()
    given = fixtures(args.bundle, shell)
    bundle = None if args.first or STORED.issuperset(args.modules) else given.given_bundle()
    found = [change for module in args.modules for change in changes(module)]
    if args.lines:
        first, last = map(int, args.lines.split("-"))
        found = [change for change in found if first <= change.line <= last]
    if args.limit and len(found) > args.limit:
        found = sorted(random.Random(args.seed).sample(found, args.limit), key=lambda each: (each.module, each.line))
    rules = {module: calls_of(module, given) for module in dict.fromkeys(change.module for change in found)}
    for module, calls in rules.items():
        if not holds(calls) or not (args.first or passes(module, given)):
            sys.stderr.write(f"the tests of {module} fail without any change\n")
            return 2
    counts: dict[str, int] = {}
    gc.freeze()  # so that children share it
    for change in found:
        verdict = killed(change, given, bundle, rules[change.module], args.first)
        counts[verdict] = counts.get(verdict, 0) + 1
        if verdict == "survived":
            sys.stdout.write(json.dumps([change.module, change.line, change.what]) + "\n")
            sys.stdout.flush()
    sys.stdout.write(f"{len(found)} changes: {counts}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""What a specification can say, on programs made for it: flags, roles, rules, and what each may never let through."""

from dataclasses import replace

import pytest

from deployments.gate.classify import Classifier
from deployments.gate.grammar import BundleError, class_of
from deployments.gate.policy import Bundle
from deployments.gate.shell.reader import ShellReader
from deployments.gate.specs import (
    Effect,
    NodeSpec,
    Parts,
    RuleSpec,
    compile_flag,
    compile_node,
    compile_rules,
)
from deployments.ports import GateProfile, Risk

READER = ShellReader(20.0)
SETS = {"common": ("-q", "-C=file")}
PROGRAMS: dict[str, NodeSpec] = {
    "fmt": NodeSpec(flags=("--check", "--diff[=name]", "--fix", "-q"), args=("file*",)),
    "send": NodeSpec(flags=("-d, --data=plain @R2 !-G !--get", "-G, --get", "--head"), args=("plain",)),
    "say": NodeSpec(flags=("-v=text @R2", "-q"), args=("plain", "text*"), operands_end_flags=True),
    "again": NodeSpec(flags=("-n=number",), args=("script",)),
    "wrap": NodeSpec(flags=("-n=number",), args=("number", "assignment*", "command")),
    "tailer": NodeSpec(flags=("-#", "-f", "-c=number", "-w @R2"), args=("file*",)),
    "pair": NodeSpec(flags=("-n=text",), args=("file", "written")),
    "many": NodeSpec(flags=("-n=text", "-w @R2"), args=("file*",)),
    "any": NodeSpec(flags=("-n=text",), args=("file",), any_words=True),
    "seek": NodeSpec(flags=("-name=text", "-delete @R3"), args=("text*",), style="single"),
    "put": NodeSpec(flags=("-o=written", "-i=file-glob"), args=("written*",)),
    "tool": NodeSpec(
        inherited=("@common",),
        sub={"list, ls": NodeSpec(rule="made.read"), "drop": NodeSpec(args=("text*",))},
    ),
    "stdin": NodeSpec(flags=("-e=text",), args=("file*",), needs=("-e",)),
    "least": NodeSpec(args=("text*",), least=1),
    "grow": NodeSpec(flags=("-e=file", "-w @R2", "-q"), args=("file*",), needs=("-e",)),
}
READS = ("send", "say", "again", "wrap", "tailer", "pair", "many", "any", "seek", "stdin", "least")


def rule(name: str, class_: str, commands: tuple[str, ...], **said: object) -> RuleSpec:
    given = {"id": name, "class": class_, "commands": commands, "reason": "made for a test", "match": ("x",)}
    return RuleSpec.model_validate(given | said)


RULES = [
    rule("made.check", "R0", ("fmt",), **{"with": ("--check", "--diff"), "without": ("--fix",)}),
    rule("made.write", "R2", ("fmt", "put", "grow"), standing=True),
    rule("made.read", "R0", READS),
    rule("made.drop", "R3", ("tool drop",)),
]


@pytest.fixture(scope="module")
def made(bundle: Bundle) -> Classifier:
    """The shipped bundle with programs of this module instead of its own, besides a few real ones."""
    programs = {name: compile_node((name,), spec, sets=SETS) for name, spec in PROGRAMS.items()}
    rules, faults = compile_rules(RULES, programs)
    assert faults == []
    real = {name: bundle.parts.programs[name] for name in ("ls", "rm", "cat", "env", "<", ">")}
    kept = {path: rule for path, rule in bundle.parts.rules.items() if path[0] in real}
    effects: dict[str, Effect] = dict(bundle.parts.effects)
    patterns = bundle.parts.patterns | {
        "plain": bundle.parts.patterns["name"],
        "number": bundle.parts.patterns["number"],
    }
    parts = Parts({**real, **programs}, {**kept, **rules}, effects, patterns)
    environment = ("LANG", "PAGER=cat")
    return Classifier(replace(bundle, parts=parts, environment=environment, base=None), READER)


def risk(made: Classifier, line: str) -> Risk:
    return made.classify("shell", {"command": line}).risk


@pytest.mark.parametrize(
    "line",
    [
        "fmt --check a",
        "fmt a --check",
        "fmt a b --diff -q",
        "fmt --check -- a",
        "send -G -d x y",
        "send -d x y --get",
        "send -dx -G y",
        "send --data=x --get y",
        "say x -v -q",
        'say x "$HOME" $RANDOM',
        "say -q x --nonsense",
        "again ls",
        "again -n 5 'ls -la'",
        "again ls ';' ls",
        "wrap 5 LANG=C ls",
        "wrap 5 PAGER=cat ls",
        "wrap -n 1 5 ls -la",
        "PAGER=cat ls",
        "tailer -100f a",
        "tailer -5 a",
        "many a*",
        "many src/*.py b",
        'for f in a*; do any "$f"; done',
        "any a*",
        "any -n a* b",
        "many -n x a",
        "seek . -name *.py",
        "seek . -name x*",
        "tool list",
        "tool ls -q",
        "tool -q -C src ls",
        "stdin -e x a",
        "least x",
        "export LANG=C; ls",
        "export LANG=C PAGER=cat",
    ],
)
def test_it_reads(made: Classifier, line: str) -> None:
    found = made.classify("shell", {"command": line})
    assert found.risk is Risk.R0, found.reasons


@pytest.mark.parametrize(
    "line",
    [
        # a flag counts only as it is, and only as a flag
        "fmt a",
        "fmt --check --fix a",
        "fmt --diff=x a",
        "fmt -- --check",
        "fmt --check=false a",
        "fmt --chec a",
        'fmt "$HOME" a',
        "fmt $(echo --check) a",
        "send -d x y",
        "send -d -G y",
        "send -d x --get=no y",
        "send -- -d -G",
        "send y -- -G -d x",
        "send -d x y --head",
        # the first operand ends the flags, and only then
        "say -v x",
        "say -q -v x y",
        'say "$HOME"',
        "say x$(ls)",
        # words that are joined and read again
        "again rm x",
        "again ls ';' rm x",
        "again ls '$(rm x)'",
        "again 'ls; rm x'",
        'again ls "$PWD"',
        'again ls "$PWD/x"',
        'x="$PWD"; again ls "$x"',
        'say "$PWD"',
        'send "$PWD"',
        "many $PWD/x",
        "again ls *",
        "again -- rm x",
        "again -n 5 rm x",
        "again again again again again again again ls",
        # wrappers
        "wrap 5 rm x",
        "wrap 5* ls",
        "wrap 5 PAGER=less ls",
        "wrap 5 PAGER=ca? ls",
        "wrap 5 LANG=C rm x",
        "wrap 5 PATH=/tmp ls",
        'wrap 5 PAGER="$HOME" ls',
        "wrap x ls",
        "wrap 5 $HOME ls",
        "PAGER=less ls",
        "PAGER=cat* ls",
        "PAGER=cat PATH=x ls",
        # numbers with letters behind them
        "tailer -100w a",
        "tailer -5c a",
        "tailer -5x a",
        "tailer -5c .env",
        "tailer -5f- a",
        "tailer -\u00b2 a",
        # words that may be more than one
        "pair a*",
        "pair a $(ls)",
        "pair a b c",
        "many *",
        "many -*",
        "many ?x",
        "many $(ls)",
        "many -n *.py a",
        "many -n ? a",
        "pair -n a* b",
        "least",
        "seek . -name *",
        "seek . -name *e",
        "seek . -name -*",
        "seek . -name [a-z]*",
        "seek . -delete",
        # paths that are written
        "put -o ~/.bashrc x",
        "pair a .git/hooks/x",
        "put -i .env x",
        "stdin a",
        "stdin",
        "tool",
        "tool lis",
        "tool drop x",
        "tool -C ~/.ssh ls",
        "tool list x",
        "export PAGER=less",
        "export PAGER",
        "export -n LANG",
        "export LANG=C PATH=x",
        "declare LANG=C",
        "readonly LANG=C",
        "local LANG=C",
    ],
)
def test_it_is_held(made: Classifier, line: str) -> None:
    assert risk(made, line) is not Risk.R0


def test_what_the_standing_plan_covers(made: Classifier) -> None:
    def covered(line: str) -> bool:
        return made.classify("shell", {"command": line}, GateProfile.CODING).covered

    for line in ("fmt a", "grow -e a b", "grow -q -e src/a b", "fmt src/*.py"):
        assert covered(line), line
    # not understood, a flag that does more, another place, or no change of the workspace at all
    held = ["grow a", "grow", "grow -w -e a b", "grow -e a -x b", "grow -e ~/a b", "fmt ../a", "fmt $(ls)"]
    for line in [*held, "put .git/config", "tool drop a", "many a", "cd ..; fmt a", "fmt a; rm -rf /"]:
        assert not covered(line), line
    assert not made.classify("shell", {"command": "fmt a"}).covered


def test_a_written_place_decides_the_class(made: Classifier) -> None:
    assert risk(made, "put out.txt") is Risk.R2
    assert risk(made, "put ~/.bashrc") is Risk.R3
    assert risk(made, "put src/x .git/hooks/pre-commit") is Risk.R3
    assert risk(made, "put -o .github/workflows/x.yml out.txt") is Risk.R3
    assert risk(made, "put $(ls)") is Risk.R3  # it may be any place


def test_a_rule_that_can_never_decide_or_rests_on_nothing_is_refused() -> None:
    programs = {name: compile_node((name,), spec, sets=SETS) for name, spec in PROGRAMS.items()}

    def faults(*rules: dict[str, object]) -> list[str]:
        full = [{"reason": "because", "match": ("x",), "class": "R0", **rule} for rule in rules]
        return compile_rules([RuleSpec.model_validate(rule) for rule in full], programs)[1]

    def one(**said: object) -> dict[str, object]:
        return {"id": "a.one", "commands": ("fmt",), **said}

    other: dict[str, object] = {"id": "a.other", "commands": ("fmt",)}
    assert faults(one(), other, ) == [*faults(one(), other)] != []  # fmt: skip
    assert any("can never decide" in fault for fault in faults(one(), other))
    assert any("can never decide" in fault for fault in faults(one(), {**other, "bare": True}))
    assert any("can never decide" in fault for fault in faults(one(), {**other, "with": ("--check",)}))
    assert any(
        "can never decide" in fault for fault in faults(one(**{"with": ("--check", "-q")}), {**other, "with": ("-q",)})
    )
    assert any(
        "can never decide" in fault for fault in faults(one(without=("-q",)), {**other, "without": ("-q", "--fix")})
    )
    made_read = {"id": "made.read", "commands": ()}
    for fine in (
        [one(bare=True), other],
        [one(**{"with": ("--check",)}), other],
        [one(**{"with": ("--check",)}), {**other, "with": ("-q",)}],
        [one(**{"with": ("--check",)}), {**other, "with": ("--check", "-q")}],
        [one(without=("-q",)), other],
        [one(bare=True), {**other, "bare": False}],
    ):
        assert faults(*fine, made_read) == []
    assert any("lacks" in fault for fault in faults(one(**{"with": ("--nothing",)}), made_read))
    assert any("lacks" in fault for fault in faults(one(without=("--nothing",)), made_read))
    assert any(
        "takes a value" in fault for fault in faults({"id": "a.c", "commands": ("many",), "with": ("-n",)}, made_read)
    )
    assert any("names no command" in fault for fault in faults({"id": "a.b", "commands": ()}, made_read))
    assert any(
        "no program specifies" in fault for fault in faults({"id": "a.b", "commands": ("nothing x",)}, made_read)
    )
    assert any("given twice" in fault for fault in faults(one(), one(bare=True), made_read))
    assert any("does not exist" in fault for fault in faults(one()))


def test_sets_of_flags() -> None:
    node = compile_node(("x",), NodeSpec(flags=("@common", "-z")), sets=SETS)
    assert node.flags.keys() == {"-q", "-C", "-z"}
    with pytest.raises(BundleError, match="nothing-like-it"):
        compile_node(("x",), NodeSpec(flags=("@nothing-like-it",)), sets=SETS)


def test_a_flag_line() -> None:
    short, long = compile_flag("-d, --data[=plain] @R2 @widen !-G !--get")
    assert (short.name, long.name) == ("-d", "--data")
    assert (short.value, short.role, short.effects, short.waived_by) == (
        "optional",
        "plain",
        ("R2", "widen"),
        {"-G", "--get"},
    )
    assert (compile_flag("-x")[0].value, compile_flag("-x=file")[0].role) == ("none", "file")
    for wrong in ("x", "-x=", "--", "-x=A", "-x, y"):
        with pytest.raises(BundleError):
            compile_flag(wrong)


def test_the_class_of_a_rule_may_differ_in_production() -> None:
    assert class_of("R1|R2").nonprod == "R1"
    assert class_of("R1|R2").prod == "R2"
    for wrong in ("R2|R1", "R9", "OPAQUE|R2"):
        with pytest.raises(BundleError):
            class_of(wrong)

"""From facts to a class: each condition of it alone, on a small bundle."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from deployments.gate.findings import OPAQUE, UNKNOWN, Facts, Finding, as_shown, environment, settle
from deployments.gate.grammar import ClassOf
from deployments.gate.policy import Bundle, read_policy
from deployments.gate.shell.atoms import Word
from deployments.gate.specs import Effect, Rule, Target
from deployments.gate.tables import Base, Egress, Env, Sensitivity
from deployments.ports import Risk
from tests.unit.gate.tiny import tiny, write

R0, R1, R2, R3 = (ClassOf(base, base) for base in (Base.R0, Base.R1, Base.R2, Base.R3))
HERE = Target(env=Env.NONPROD, workspace=True)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return read_policy(write(tmp_path_factory.mktemp("small"), tiny()))


def rule(class_of: ClassOf, standing: bool = True) -> Rule:
    return Rule("x.y", class_of, "does it", None, standing)


def settled(
    small: Bundle,
    facts: Facts,
    by: Rule | None = None,
    standing: bool = True,
    directories: Sequence[str | None] = (".",),
) -> Finding:
    return settle(small, facts, by, "x", standing, directories)


def test_what_is_not_understood_is_noted() -> None:
    facts = Facts()
    facts.unknown("a")
    assert (facts.understood, facts.classes, facts.notes) == (False, [UNKNOWN], ["a"])
    facts = Facts()
    facts.opaque("b")
    assert (facts.understood, facts.classes, facts.notes) == (False, [OPAQUE], ["b"])


def test_an_effect_is_noted_with_all_that_it_says() -> None:
    facts = Facts()
    facts.effect("push", Effect(R3, Env.PROD, Sensitivity.SENSITIVE, Egress.OTHER), "-p")
    assert (facts.classes, facts.wide, facts.understood, facts.notes) == ([R3], True, True, ["-p (push)"])
    assert facts.targets == [Target(env=Env.PROD, sensitivity=Sensitivity.SENSITIVE, egress=Egress.OTHER)]
    facts = Facts()
    facts.effect("far", Effect(None, None, Sensitivity.NORMAL, Egress.LISTED), "-f")
    assert (facts.classes, facts.wide) == ([], True)
    assert facts.targets == [Target(egress=Egress.LISTED)]


@pytest.mark.parametrize(
    ("bare", "with_", "without", "plain", "given", "fits"),
    [
        (None, "", "", "", "", (True, True)),
        (True, "", "", "", "", (True, False)),
        (False, "", "", "", "", (False, True)),
        (None, "a b", "", "", "a", (False, False)),
        (None, "a b", "", "b", "b", (True, True)),
        (None, "", "a b", "", "b", (False, False)),
        (None, "", "a b", "", "c", (True, True)),
        (True, "a", "b", "a", "a", (True, False)),
        (True, "a", "b", "a", "a b", (False, False)),
    ],
)
def test_whether_a_rule_fits(
    bare: bool | None, with_: str, without: str, plain: str, given: str, fits: tuple[bool, bool]
) -> None:
    facts = Facts(given=set(given.split()), plain=set(plain.split()))
    one = Rule("x.y", R0, "does it", bare, False, frozenset(with_.split()), frozenset(without.split()))
    assert (facts.rule_fits(one, True), facts.rule_fits(one, False)) == fits


def test_the_worst_class_decides(small: Bundle) -> None:
    assert settled(small, Facts(), rule(R0)).risk is Risk.R0
    assert settled(small, Facts(classes=[R3]), rule(R0)).risk is Risk.R3
    assert settled(small, Facts(classes=[R0]), rule(R3)).risk is Risk.R3
    assert settled(small, Facts(targets=[HERE, replace(HERE, class_of=R3)]), rule(R0)).risk is Risk.R3
    assert settled(small, Facts(), None).risk is Risk.R2
    assert settled(small, Facts(classes=[R0]), None).risk is Risk.R0
    split = ClassOf(Base.R0, Base.R3)
    assert settled(small, Facts(targets=[HERE]), rule(split)).risk is Risk.R0
    assert settled(small, Facts(targets=[HERE, Target(env=Env.PROD)]), rule(split)).risk is Risk.R3


def test_the_worst_target_decides(small: Bundle) -> None:
    sensitive, listed, other = (
        replace(HERE, sensitivity=Sensitivity.SENSITIVE),
        replace(HERE, egress=Egress.LISTED),
        replace(HERE, egress=Egress.OTHER),
    )
    for targets, risk in [
        ([HERE], Risk.R0),
        ([sensitive, HERE], Risk.R1),
        ([HERE, sensitive], Risk.R1),
        ([listed, HERE], Risk.R1),
        ([HERE, listed, other], Risk.R2),
        ([other, listed, HERE], Risk.R2),
    ]:
        assert settled(small, Facts(targets=targets), rule(R0)).risk is risk, targets


def test_a_plan_covers_plain_work_in_the_workspace(small: Bundle) -> None:
    words = ("x.y: does it", "x.y: inside the workspace, covered by the standing rollback plan")
    for class_of in (R1, R2):
        for targets in ([], [HERE], [HERE, HERE]):
            found = settled(small, Facts(targets=targets), rule(class_of))
            assert found == Finding(Risk.R1, True, "x.y", words, "x")
    assert settled(small, Facts(bases=["./src"]), rule(R2), directories=[".", "./a"]).covered


@pytest.mark.parametrize(
    ("facts", "by", "standing", "directories", "risk"),
    [
        (Facts(), rule(R2), False, ["."], Risk.R2),
        (Facts(classes=[R2]), None, True, ["."], Risk.R2),
        (Facts(), rule(R2, standing=False), True, ["."], Risk.R2),
        (Facts(understood=False), rule(R2), True, ["."], Risk.R2),
        (Facts(wide=True), rule(R2), True, ["."], Risk.R2),
        (Facts(), rule(R3), True, ["."], Risk.R3),
        (Facts(), rule(R0), True, ["."], Risk.R0),
        (Facts(targets=[replace(HERE, env=Env.PROD)]), rule(R2), True, ["."], Risk.R2),
        (Facts(targets=[replace(HERE, sensitivity=Sensitivity.SENSITIVE)]), rule(R1), True, ["."], Risk.R2),
        (Facts(targets=[replace(HERE, egress=Egress.LISTED)]), rule(R1), True, ["."], Risk.R1),
        (Facts(targets=[HERE, replace(HERE, workspace=False)]), rule(R2), True, ["."], Risk.R2),
        (Facts(), rule(R2), True, [".", "/etc"], Risk.R2),
        (Facts(), rule(R2), True, [".", None], Risk.R2),
        (Facts(bases=["/etc"]), rule(R2), True, ["."], Risk.R2),
        (Facts(bases=[".", None]), rule(R2), True, ["."], Risk.R2),
    ],
)
def test_a_plan_covers_nothing_else(
    small: Bundle, facts: Facts, by: Rule | None, standing: bool, directories: list[str | None], risk: Risk
) -> None:
    found = settled(small, facts, by, standing, directories)
    assert (found.risk, found.covered) == (risk, False)


def test_a_place_that_nobody_registered_is_no_workspace(small: Bundle) -> None:
    without = replace(small, matchers={**small.matchers, "path": ()})
    assert not settled(without, Facts(), rule(R2)).covered


def test_the_reasons_of_a_finding(small: Bundle) -> None:
    prod = Target(env=Env.PROD)
    why = "the target is production, or not known to be otherwise"
    assert settled(small, Facts(notes=["a"], targets=[prod]), rule(R0)).reasons == ("x.y: does it",)
    assert settled(small, Facts(notes=["a"]), rule(R3)).reasons == ("x.y: does it", "x.y: a")
    found = settled(small, Facts(notes=["a"], targets=[prod]), rule(R3))
    assert (found.rule, found.reasons) == ("x.y", ("x.y: does it", "x.y: a", f"x.y: {why}"))
    found = settled(small, Facts(classes=[R3], notes=["a"]))
    assert (found.rule, found.reasons) == (None, ("no-rule: not understood", "no-rule: a"))


def test_where_a_command_acts(small: Bundle) -> None:
    silent, prod, runner = Target(), Target(env=Env.PROD), small.matchers["runner"]
    production = replace(small, matchers={**small.matchers, "runner": tuple((each, prod) for each, _ in runner)})
    wordless = replace(small, matchers={**small.matchers, "runner": tuple((each, silent) for each, _ in runner)})
    missing = replace(small, matchers={**small.matchers, "runner": ()})
    for targets, found in [
        ([], Env.NONPROD),
        ([silent], Env.NONPROD),
        ([silent, HERE], Env.NONPROD),
        ([HERE, prod], Env.PROD),
        ([prod, silent], Env.PROD),
    ]:
        assert environment(small, targets) is found, targets
    for bundle in (production, wordless, missing):
        assert environment(bundle, [silent]) is Env.PROD
        assert environment(bundle, [HERE]) is Env.NONPROD


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        ([Word("ls"), Word("-la"), Word("./a_b/*.{c,d}?[x]")], "ls -la ./a_b/*.{c,d}?[x]"),
        ([Word("a"), Word(None)], "a <?>"),
        ([Word("a"), Word("")], "a ''"),
        ([Word("a"), Word("b c"), Word("it's")], "a 'b c' 'it'\\''s'"),
        ([Word("a"), Word("$x;y")], "a '$x;y'"),
    ],
)
def test_a_command_as_people_see_it(argv: list[Word], shown: str) -> None:
    assert as_shown(argv) == shown

"""What a bundle's lines become, and what refuses them: each rule of the compiler alone."""

import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.gate import policy
from deployments.gate.grammar import BundleError, ClassOf
from deployments.gate.name_settings import TenantGateSettings
from deployments.gate.policy import MAX_BASES, MAX_FAULTS, Bundle, read_policy, unregistered
from deployments.gate.specs import (
    EffectSpec,
    Flag,
    Node,
    NodeSpec,
    PrintSpec,
    ProfileSpec,
    RuleSpec,
    TargetSpec,
    compile_effect,
    compile_flag,
    compile_node,
    compile_prints,
    compile_rules,
    compile_target,
    table_a,
    table_b,
)
from deployments.gate.tables import Base, Egress, Env, Outcome, Sensitivity, Standing
from deployments.gate.tenant_names import with_tenants
from deployments.ports import GateProfile, Risk
from tests.unit.gate.tiny import tiny, write

ONE = "{adapter: fields, names: [%s], fields: {}, class: R0, reason: why, examples: [{arguments: {}, risk: R0}]}"


def read(said: dict[str, Any], **files: str) -> Bundle:
    """The bundle `said`, with the given files (by the name of each, without its suffix) beside it."""
    with tempfile.TemporaryDirectory() as directory:
        for name, text in files.items():
            (Path(directory) / f"{name}.yaml").write_text(text, encoding="utf-8")
        return read_policy(write(Path(directory), said))


def refused(said: dict[str, Any], **files: str) -> str:
    with pytest.raises(BundleError) as found:
        read(said, **files)
    return str(found.value)


@cache
def small() -> Bundle:
    return read(tiny())


def mine(text: str, base: str = "tiny") -> Bundle:
    """A bundle that extends the small one."""
    with tempfile.TemporaryDirectory() as directory:
        write(Path(directory), tiny())
        path = Path(directory) / "mine.yaml"
        path.write_text(f"version: 1\nname: mine\nextends: {base}\n{text}", encoding="utf-8")
        return read_policy(path)


# --- flags -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "flags"),
    [
        ("-l", [Flag("-l")]),
        ("-n, --lines=number", [Flag("-n", "required", "number"), Flag("--lines", "required", "number")]),
        ("--color[=name]", [Flag("--color", "optional", "name")]),
        ("-d=body @R2 @wide !-G !-H",
         [Flag("-d", "required", "body", ("R2", "wide"), frozenset({"-G", "-H"}))]),
        ("--arg=name+text", [Flag("--arg", "required", "name", second="text")]),
        ("--arg, --argjson=name+text @R1", [Flag("--arg", "required", "name", ("R1",), second="text"),
                                            Flag("--argjson", "required", "name", ("R1",), second="text")]),
        ("-#", [Flag("-#")]), ("!", [Flag("!")]), ("-?", [Flag("-?")]), ("-", [Flag("-")]), ("-@", [Flag("-@")]),
    ],
)  # fmt: skip
def test_a_line_of_flags_says(line: str, flags: list[Flag]) -> None:
    assert list(compile_flag(line)) == flags


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("", "not readable"),
        ("-a=", "not readable"),
        ("-a=Role", "not readable"),
        ("-a=1x", "not readable"),
        ("-a[=x", "not readable"),
        ("-a=x]", "not readable"),
        ("-a[x]", "not readable"),
        ("a", "no valid name"),
        ("-a, b", "no valid name"),
        ("-a,-b", "no valid name"),
        ("---a", "no valid name"),
        ("--", "no valid name"),
        ("-a b", "no valid name"),
        ("-a=x+y", "takes two words"),
        ("-a, --arg=x+y", "takes two words"),
        ("--arg, -a=x+y", "takes two words"),
        ("--arg[=x+y]", "takes two words"),
    ],
)
def test_a_line_of_flags_is_refused(line: str, why: str) -> None:
    with pytest.raises(BundleError, match=why):
        compile_flag(line)


# --- nodes -----------------------------------------------------------------------------------------------------------


def node(sets: dict[str, tuple[str, ...]] | None = None, **said: Any) -> Node:
    return compile_node(
        ("x",),
        NodeSpec.model_validate_json(NodeSpec.model_validate(said, strict=False).model_dump_json(by_alias=True)),
        sets=sets or {},
    )


def test_what_a_subcommand_takes_over() -> None:
    found = node(
        flags=["-a"], inherited=["-i=name"], targets=["place"], style="single", args=["name*"], any_words=True,
        requires=["-a"], drops_first=["-a"], needs=["-a"], least=2, reads="sql-mysql", here=["*"], lists=["*"],
        lists_not=["-a"], passes=["-a"], bare_names=True, appends=True, dotted_names=True, operands_end_flags=True,
        rule="a.b", sub={"s, t": {"flags": ["-b"], "sub": {"u": {"targets": ["host"], "style": "words"}}}},
    )  # fmt: skip
    assert (set(found.flags), set(found.inherited), set(found.sub)) == ({"-a", "-i"}, {"-i"}, {"s", "t"})
    assert (found.args, found.repeats, found.single, found.literal) == (("name",), True, True, False)
    assert (found.any_words, found.any_names, found.least, found.reads, found.rule) == (
        True,
        True,
        2,
        "sql-mysql",
        "a.b",
    )
    assert found.passes == found.requires == found.drops_first == found.needs == found.lists_not == {"-a"}
    assert found.here == found.lists == {"*"}
    assert all((found.bare_names, found.appends, found.dotted_names, found.operands_end_flags))
    below = found.sub["t"]
    assert (below.path, set(below.flags), set(below.inherited)) == (("x", "t"), {"-b", "-i"}, {"-i"})
    assert (below.targets, below.single, below.args, below.repeats, below.passes) == (("place",), True, (), False, None)
    assert not any((below.any_words, below.any_names, below.appends, below.bare_names, below.rule, below.reads))
    last = below.sub["u"]
    assert (last.path, last.targets, last.single, last.literal) == (("x", "t", "u"), ("host",), True, True)
    assert node(any_names=True).any_names
    assert not node(any_names=True).any_words
    assert not node(args=["name"]).repeats
    assert node(passes=[]).passes == frozenset()
    plain = node(sub={"s": {}})
    assert not any((plain.single, plain.literal, plain.sub["s"].single, plain.repeats, plain.any_names))


def test_sets_of_flags_stand_for_their_lines() -> None:
    sets = {"global": ("-a=name", "-b")}
    assert set(node(sets, flags=["@global", "-c"], inherited=["-d"]).flags) == {"-a", "-b", "-c", "-d"}
    assert set(node(sets, inherited=["@global"], sub={"s": {}}).sub["s"].flags) == {"-a", "-b"}
    for line in ("@none", "@"):
        with pytest.raises(BundleError, match="no set of flags"):
            node(sets, flags=[line])
    with pytest.raises(BundleError, match="no set of flags|no valid name|not readable"):
        node({"global": ("@global",)}, flags=["@global"])


@pytest.mark.parametrize(
    ("args", "fits"),
    [
        (["a", "b*"], True),
        (["a*", "b"], False),
        (["assignment*", "command*"], True),
        (["assignment*", "a*", "b"], False),
    ],
)
def test_only_the_last_argument_repeats(args: list[str], fits: bool) -> None:
    if fits:
        assert node(args=args).repeats
        return
    with pytest.raises(BundleError, match="'x' repeats an argument that is not its last"):
        node(args=args)


def test_what_is_printed_is_compiled() -> None:
    spec = PrintSpec.model_validate_json(
        '{"kind": "number", "with": ["-a"], "values": {"-b": "[a-z]"}, "only": ["-c"], "most": 1, "operand": "x+",'
        ' "single": ["*"], "words": true, "from": "hash"}'
    )
    found = compile_prints(("x",), spec)
    assert (found.kind, found.from_, found.most, found.words) == ("number", "hash", 1, True)
    assert (found.with_, found.only, found.single) == ({"-a"}, {"-c"}, {"*"})
    assert found.values["-b"].fullmatch("q")
    assert found.operand.fullmatch("xx")
    for said, why in (
        ({"kind": "nonsense"}, "prints 'nonsense', which is no kind"),
        ({"kind": "number", "from": "nonsense"}, "prints 'nonsense', which is no kind"),
        ({"kind": "number", "operand": "("}, "pattern that is not readable"),
        ({"kind": "number", "values": {"-a": "("}}, "pattern that is not readable"),
    ):
        with pytest.raises(BundleError, match=why):
            compile_prints(("x", "y"), PrintSpec.model_validate(said))
    assert compile_prints(("x",), PrintSpec(kind="number")).from_ is None


# --- rules -----------------------------------------------------------------------------------------------------------

PROGRAMS = {
    "x": node(flags=["-a", "-b=name", "-c[=name]"], rule="by.node", sub={"s": {"rule": "by.sub"}, "t, u": {}}),
    "y": compile_node(("y",), NodeSpec(rule="by.node")),
}


def rule(name: str, commands: Sequence[str] = (), **said: Any) -> RuleSpec:
    given = {"id": name, "commands": tuple(commands), "class": "R1", "reason": "why", "match": ("x",)} | said
    return RuleSpec.model_validate(given)


NODES = [rule("by.node"), rule("by.sub")]


def test_rules_stand_with_their_commands_in_order() -> None:
    given = [rule("a.bare", ["x"], bare=True, **{"class": "R0|R3", "standing": True}), *NODES, rule("a.t", ["x t"])]
    found, faults = compile_rules(given, PROGRAMS)
    assert faults == []
    assert {path: [each.id for each in rules] for path, rules in found.items()} == {
        ("x",): ["a.bare", "by.node"], ("x", "s"): ["by.sub"], ("x", "t"): ["a.t"],
        ("y",): ["by.node"],
    }  # fmt: skip
    first = found[("x",)][0]
    assert (first.class_of, first.bare, first.standing) == (ClassOf(Base.R0, Base.R3), True, True)


@pytest.mark.parametrize(
    ("rules", "faults"),
    [
        ([*NODES, rule("a.a", ["x t"]), rule("a.a", ["x u"])], ["rule a.a is given twice"]),
        ([NODES[0]], ["'x s' names the rule by.sub, which does not exist"]),
        ([*NODES, rule("a.a", ["z"])], ["rule a.a names 'z', which no program specifies", "rule a.a names no command"]),
        ([*NODES, rule("a.a", ["x v w"])], ["rule a.a names 'x v w', which no program specifies",
                                            "rule a.a names no command"]),
        ([*NODES, rule("a.a", [""])], ["rule a.a names '', which no program specifies", "rule a.a names no command"]),
        ([*NODES, rule("a.a")], ["rule a.a names no command"]),
        ([*NODES, rule("a.a", ["x"])], ["rule a.a can never decide 'x': an earlier rule does"]),
        ([rule("a.a", ["x"], bare=True), rule("a.b", ["x"], bare=True), *NODES],
         ["rule a.b can never decide 'x': an earlier rule does"]),
        ([rule("a.a", ["x"], bare=True), rule("a.b", ["x"], bare=False), *NODES], []),
        ([rule("a.a", ["x"], **{"with": ("-a",)}), rule("a.b", ["x"], **{"with": ("-a",)}), *NODES],
         ["rule a.b can never decide 'x': an earlier rule does"]),
        ([rule("a.a", ["x"], **{"with": ("-a", "-c")}), rule("a.b", ["x"], **{"with": ("-a",)}), *NODES],
         ["rule a.b can never decide 'x': an earlier rule does"]),
        ([rule("a.a", ["x"], **{"with": ("-a",)}), rule("a.b", ["x"], **{"with": ("-a", "-c")}), *NODES], []),
        ([rule("a.a", ["x"], without=("-a",)), rule("a.b", ["x"]), rule("by.sub"), rule("by.node", bare=True)],
         ["rule by.node can never decide 'x': an earlier rule does"]),
        ([rule("a.a", ["x"], without=("-a",)), rule("a.b", ["x"], without=("-a", "-b")), *NODES],
         ["rule a.b can never decide 'x': an earlier rule does"]),
        ([rule("a.a", ["x"], without=("-a", "-b")), rule("a.b", ["x"], without=("-a",)), *NODES], []),
        ([rule("a.a", ["x"], **{"with": ("-z",)}), *NODES], ["rule a.a looks for -z, which 'x' lacks"]),
        ([rule("a.a", ["x"], without=("-z",)), *NODES], ["rule a.a looks for -z, which 'x' lacks"]),
        ([rule("a.a", ["x"], **{"with": ("-b",)}), *NODES], ["rule a.a rests on -b, which takes a value"]),
        ([rule("a.a", ["x"], **{"with": ("-c",)}), *NODES], []),
        ([rule("a.a", ["x"], without=("-b",)), *NODES], []),
    ],
)  # fmt: skip
def test_what_is_wrong_with_rules(rules: list[RuleSpec], faults: list[str]) -> None:
    assert compile_rules(rules, PROGRAMS)[1] == faults


def test_effects_and_targets_are_compiled() -> None:
    spec = TargetSpec.model_validate(
        {"match": ("a",), "env": "prod", "sensitivity": "sensitive", "egress": "other", "class": "R1|R2", "names": "k",
         "workspace": True, "cluster_scoped": True}
    )  # fmt: skip
    found = compile_target(spec)
    assert (found.env, found.sensitivity, found.egress) == (Env.PROD, Sensitivity.SENSITIVE, Egress.OTHER)
    assert (found.class_of, found.names, found.workspace, found.cluster_scoped) == (
        ClassOf(Base.R1, Base.R2), "k", True, True,
    )  # fmt: skip
    bare = compile_target(TargetSpec(match=("a",)))
    assert (bare.env, bare.class_of) == (None, None)
    effect = compile_effect(EffectSpec.model_validate({"class": "R2", "env": "nonprod", "egress": "listed"}))
    assert (effect.class_of, effect.env, effect.egress) == (ClassOf(Base.R2, Base.R2), Env.NONPROD, Egress.LISTED)
    assert (compile_effect(EffectSpec()).class_of, compile_effect(EffectSpec()).env) == (None, None)


def test_tables_are_compiled() -> None:
    cells = ("R0", "R1", "R2", "R1", "R1", "R2")
    found = table_a({"R0": {"nonprod": cells, "prod": cells[:5]}})
    assert found[Base.R0, Env.NONPROD, Sensitivity.NORMAL, Egress.OTHER] is Risk.R2
    assert found[Base.R0, Env.PROD, Sensitivity.SENSITIVE, Egress.LISTED] is Risk.R1
    assert (Base.R0, Env.PROD, Sensitivity.SENSITIVE, Egress.OTHER) not in found
    for rows in ({"R7": {"prod": cells}}, {"R0": {"prod": ("R7",)}}):
        with pytest.raises(BundleError, match="table A"):
            table_a(rows)  # pyright: ignore[reportArgumentType]
    profile = ProfileSpec(outcomes={"R0": "release", "R1_covered": "hold"})
    assert table_b({"ops": profile}) == {
        (GateProfile.OPS, Standing.R0): Outcome.RELEASE, (GateProfile.OPS, Standing.COVERED): Outcome.HOLD,
    }  # fmt: skip
    with pytest.raises(BundleError, match="table B"):
        table_b({"ops": ProfileSpec(outcomes={"R0": "perhaps"})})


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("include", "files", "why"),
    [
        (["/etc/x.yaml"], {}, "must lie below the bundle: '/etc/x.yaml'"),
        (["a/../x.yaml"], {}, "must lie below the bundle"),
        (["one.yaml", "one.yaml"], {"one": "sinks: []"}, "included twice"),
        (["one.yaml"], {"one": "include: [two.yaml]"}, "one.yaml: an included file may not include others"),
        (["one.yaml"], {"one": "words: {name: x}"}, "one.yaml: words specified twice: name"),
        (["one.yaml", "two.yaml"], {"one": "words: {b: x, a: y}", "two": "words: {b: x, a: y, c: z}"},
         "two.yaml: words specified twice: a, b"),
        (["one.yaml"], {"one": f"tools: [{ONE % 'shell'}]"}, "registered twice: shell"),
        (["one.yaml", "two.yaml"], {"one": f"tools: [{ONE % 'b'}]", "two": f"tools: [{ONE % 'b'}]"},
         "registered twice: b"),
        (["one.yaml"], {"one": f"tools: [{ONE % 'b'}, {ONE % 'b'}]"}, "a tool name is registered twice"),
        (["one.yaml"], {"one": "word_uses: {name: read}"}, "word_uses names what is no word of this file: name"),
    ],
)  # fmt: skip
def test_included_files_are_refused(include: list[str], files: dict[str, str], why: str) -> None:
    assert why in refused(tiny() | {"include": include}, **files)


def test_included_files_add_up_in_order() -> None:
    files = {"one": f"sinks: [/dev/stdout]\nwords: {{a: x}}\nword_uses: {{a: read}}\ntools: [{ONE % 'b'}]",
             "two": "sinks: [/dev/stderr]\nwords: {c: y}"}  # fmt: skip
    found = read(tiny() | {"include": ["one.yaml", "two.yaml"]}, **files)
    assert found.spec.sinks == ("/dev/null", "/dev/stdout", "/dev/stderr")
    assert set(found.parts.patterns) == {"name", "a", "c"}
    assert found.spec.word_uses == {"a": "read"}
    assert set(found.tools) == {"shell", "Write", "b"}
    assert found.spec.include == ()


def test_many_faults_are_counted() -> None:
    said = tiny()
    said["programs"] |= {f"p{number}": {"args": ["nothing"]} for number in range(MAX_FAULTS)}
    assert "more" not in refused(said)
    said["programs"] |= {"q": {"args": ["nothing"]}}
    text = refused(said)
    assert text.endswith("; and 1 more")
    assert text.count("which nothing defines") == MAX_FAULTS


@pytest.mark.parametrize("fits", [True, False])
def test_a_chain_of_bundles_has_an_end(fits: bool) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = write(Path(directory), tiny())
        last = MAX_BASES if fits else MAX_BASES + 1
        for number in range(last):
            below = "tiny" if number == 0 else f"n{number - 1}"
            path = write(Path(directory), {"version": 1, "name": f"n{number}", "extends": below})
        if fits:
            assert read_policy(path).name == f"n{last - 1}"
            return
        with pytest.raises(BundleError, match=f"more than {MAX_BASES} bundles"):
            read_policy(path)


@pytest.mark.parametrize(
    ("section", "said", "why"),
    [
        ("programs", {"x, x": {}}, "'x' is specified twice"),
        ("programs", {"x": {}, "y, x": {}}, "'x' is specified twice"),
        ("programs", {"x": {"sub": {"a, b": {"sub": {"c": {}, "d, c": {}}}}}}, "'x a c' is specified twice"),
        ("programs", {" x": {}}, "' x' is no name"),
        ("programs", {"x": {"sub": {"": {}}}}, "'x ' is no name"),
        ("programs", {"x": {"args": ["nothing"]}}, "'x' uses the role 'nothing', which nothing defines"),
        ("programs", {"x": {"flags": ["-a=nothing"]}}, "'x' uses the role 'nothing', which nothing defines"),
        ("programs", {"x": {"flags": ["--a=name+nothing"]}}, "'x' uses the role 'nothing', which nothing defines"),
        ("programs", {"x": {"sub": {"s": {"args": ["nothing"]}}}}, "'x s' uses the role 'nothing'"),
        ("programs", {"x": {"flags": ["-a @nothing"]}}, "'x' uses the effect 'nothing', which nothing defines"),
        ("programs", {"x": {"requires": ["-z"]}}, "'x' names the flag -z, which it lacks"),
        ("programs", {"x": {"needs": ["-z"]}}, "'x' names the flag -z, which it lacks"),
        ("programs", {"x": {"drops_first": ["-z"]}}, "'x' names the flag -z, which it lacks"),
        ("programs", {"x": {"lists": ["-z"]}}, "'x' names the flag -z, which it lacks"),
        ("programs", {"x": {"here": ["-z"]}}, "'x' names the flag -z, which it lacks"),
        ("programs", {"x": {"lists_not": ["-z"]}}, "'x' names the flag -z, which it lacks"),
        ("programs", {"x": {"lists_not": ["*"]}}, "'x' names the flag *, which it lacks"),
        ("programs", {"x": {"passes": ["-z"]}}, "'x' names the flag -z, which it lacks"),
        ("programs", {"x": {"flags": ["-a @R2 !-z"]}}, "'x' names the flag -z, which it lacks"),
        ("programs", {"x": {"targets": ["nothing"]}}, "'x' has targets of an unknown kind 'nothing'"),
        ("targets", {"name": []}, "the kind of targets 'name' is a role already"),
        ("targets", {"url": []}, "the kind of targets 'url' is a role already"),
        ("words", {"x": "("}, "the word pattern 'x' is not a regular expression"),
        ("table", {"R3": {"nonprod": ["R3"] * 7, "prod": ["R3"] * 6}}, "table A has 7 cells for R3/nonprod, not 6"),
        ("table", {"R3": {"nonprod": ["R3"] * 5, "prod": ["R3"] * 6}}, "no cell for R3/nonprod/sensitive/other"),
        ("effects", {"x": {"class": "R7"}}, "'R7' is not a class"),
    ],
)  # fmt: skip
def test_what_a_bundle_may_not_say(section: str, said: dict[str, Any], why: str) -> None:
    whole = tiny()
    whole[section] = whole[section] | said
    assert why in refused(whole)


def test_what_a_bundle_may_say() -> None:
    whole = tiny()
    whole["effects"] |= {"wide": {"env": "prod"}}
    whole["targets"] |= {
        "written": [{"match": ["*/hooks/*"], "class": "R3"}],
        "cube": [{"match": ["a"], "env": "prod"}],
    }
    whole["programs"] |= {
        "x, y": {"flags": ["-a", "-b=cube @wide !-a", "--c=name+file @R3"], "requires": ["-a"], "needs": ["-b"],
                 "drops_first": ["-a"], "lists": ["*", "-a"], "here": ["*"], "lists_not": ["-a"], "passes": ["-a"],
                 "args": ["text", "cube*"], "targets": ["cube"], "sub": {"s": {"rule": "x.s"}}},
    }  # fmt: skip
    whole["rules"] += [{"id": "x.s", "class": "R0", "reason": "why", "match": ["x s"]}]
    found = read(whole)
    assert found.parts.programs["y"].path == ("y",)
    assert [each.id for each in found.parts.rules[("y", "s")]] == ["x.s"]
    assert found.parts.effects["R3"].class_of == ClassOf(Base.R3, Base.R3)
    assert found.parts.effects["wide"].env is Env.PROD


# --- names -----------------------------------------------------------------------------------------------------------


def test_the_first_entry_that_fits_says_what_a_name_is() -> None:
    found = small()
    assert found.target("place", "lab") == compile_target(TargetSpec(match=("a",), env="nonprod"))
    assert found.target("place", "sea") == compile_target(TargetSpec(match=("a",), env="prod"))
    assert found.target("host", "elsewhere") is None
    assert found.target("nothing", "x") is None
    assert unregistered("place").egress is Egress.NONE
    assert (unregistered("host").egress, unregistered("database-host").egress) == (Egress.OTHER, Egress.OTHER)
    assert (unregistered("host").env, unregistered("host").sensitivity) == (Env.PROD, Sensitivity.SENSITIVE)
    assert found.of("acme") is found


def test_what_the_base_marks_keeps_its_word() -> None:
    own = mine("""
targets:
  place: [{match: [vault, harbour, lab], env: nonprod}]
  host: [{match: [mirror.example.com, "169.254.1.1", new.example.com], env: nonprod}]
""")
    base = small()
    vault = own.target("place", "vault")
    assert vault is not None
    assert (vault.env, vault.sensitivity) == (Env.NONPROD, Sensitivity.SENSITIVE)
    for kind, name, env in (
        ("place", "harbour", Env.NONPROD),
        ("place", "sea", Env.PROD),
        ("host", "new.example.com", Env.NONPROD),
    ):
        found = own.target(kind, name)
        assert found is not None
        assert found.env is env
    metadata, mirror = own.target("host", "169.254.1.1"), own.target("host", "mirror.example.com")
    assert metadata is not None
    assert metadata.class_of == ClassOf(Base.FORBIDDEN, Base.FORBIDDEN)
    assert mirror is not None
    assert mirror.egress is Egress.LISTED
    assert own.target("host", "unknown") is None
    assert own.target("place", "vault") != base.target("place", "vault")


def test_globs_have_every_target_that_they_are_made_for() -> None:
    def shown(bundle: Bundle, text: str) -> list[str]:
        return [f"{each.sensitivity.value} {each.env}" for each in bundle.targets_of_glob("path", text)]

    assert shown(small(), "./src/*.pem") == ["sensitive prod"]
    assert shown(small(), "./src/*.p*m") == ["sensitive prod", "normal nonprod"]
    assert shown(small(), "./src/*.py") == ["normal nonprod"]
    own = mine("targets: {path: [{match: ['./open/*'], env: nonprod}]}")
    assert shown(own, "./open/*.pem") == ["sensitive prod", "normal nonprod"]
    assert shown(own, "./open/*.py") == ["normal nonprod"], "what the base does not mark adds nothing"
    named = with_tenants(small(), {"acme": TenantGateSettings.model_validate(
        {"targets": {"path": [{"match": ["./other", "./src/x*"], "sensitivity": "sensitive"},
                              {"match": ["./a/b"], "env": "prod"}]}}
    )}).of("acme")  # fmt: skip
    assert shown(named, "./src/x?") == ["sensitive None", "normal nonprod"]
    assert shown(named, "./s*/x1") == ["sensitive None", "normal nonprod"], "a name there may be one of the tenant's"
    assert shown(named, "./lib/?") == ["normal nonprod"]


def test_a_tenants_names_are_added_to_the_bundles() -> None:
    names = {"place": [{"match": ["lab", "dock-*"], "sensitivity": "sensitive"}, {"match": ["lab"], "class": "R3"}],
             "written": [{"match": ["*/prices"], "class": "R2"}],
             "host": [{"match": ["far"], "egress": "other"}]}  # fmt: skip
    whole = tiny()
    whole["targets"] |= {"written": [{"match": ["*/hooks/*"], "class": "R3"}]}
    plain = read(whole)
    both = with_tenants(plain, {"acme": TenantGateSettings.model_validate({"targets": names})})
    own = both.of("acme")
    assert both.of(None) is both.of("") is both.of("other") is both
    lab, dock, far = own.target("place", "lab"), own.target("place", "dock-1"), own.target("host", "far")
    assert lab is not None
    assert (lab.env, lab.sensitivity, lab.class_of) == (Env.NONPROD, Sensitivity.SENSITIVE, ClassOf(Base.R3, Base.R3))
    assert dock is not None
    assert (dock.env, dock.sensitivity, dock.class_of) == (Env.PROD, Sensitivity.SENSITIVE, None)
    assert far is not None
    assert (far.env, far.sensitivity, far.egress) == (Env.PROD, Sensitivity.SENSITIVE, Egress.OTHER), "still unknown"
    prices, both_ways = own.target("written", "a/prices"), own.target("written", "a/hooks/prices")
    assert prices is not None
    assert (prices.env, prices.sensitivity) == (None, Sensitivity.NORMAL), "a path is judged as a path besides"
    assert prices.class_of == ClassOf(Base.R2, Base.R2)
    assert both_ways is not None
    assert both_ways.class_of == ClassOf(Base.R3, Base.R3), "what a line says is never less"
    assert own.target("place", "sea") == plain.target("place", "sea")
    assert len(own.raised("place", None)) == 2
    assert [len(own.raised("place", name)) for name in ("lab", "dock-2", "sea")] == [2, 1, 0]
    assert own.raised("nothing", None) == []
    assert len(own.entries("place")) == len(plain.entries("place")) + 2
    assert own.policy_digest != plain.policy_digest == both.policy_digest


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("targets: {place: [{match: ['*'], env: nonprod}]}", "the place '*' makes everything milder"),
        ("targets: {place: [{match: [x, '?*'], env: nonprod}]}", "the place '?*' makes"),
        ("targets: {host: [{match: ['*.zq7'], env: nonprod}]}", "the host '*.zq7' makes"),
        ("rules: [{id: my.ls, commands: [ls], class: R0, reason: why, match: [ls]}, "
         "{id: my.rm, commands: [rm], class: R2, bare: true, reason: why, match: [rm]},"
         "{id: my.go, commands: [rm], class: R3, bare: true, reason: why, match: [rm]}]",
         "rule my.go can never decide 'rm'"),
    ],
)  # fmt: skip
def test_what_an_own_entry_may_not_say(text: str, why: str) -> None:
    with pytest.raises(BundleError) as found:
        mine(text)
    assert why in str(found.value)


def test_what_an_own_entry_may_say() -> None:
    own = mine("""
targets:
  place: [{match: ['*'], env: prod, sensitivity: sensitive}, {match: ['dev-*'], env: nonprod}]
  cube: [{match: ['*'], env: nonprod}]
rules: [{id: my.ls, commands: [ls], class: R1, reason: why, match: [ls]}]
programs: {new: {args: [cube]}}
""")
    assert [each.id for each in own.parts.rules[("ls",)]][:1] == ["my.ls"]
    assert set(own.parts.programs) == {"ls", "rm", "curl", "ship", "new"}
    assert [each.id for each in own.own_rules] == ["my.ls"]
    assert own.own_tools == ()
    assert small().own_tools == small().spec.tools
    assert small().own_rules == small().rule_specs


def test_a_base_may_lie_beside_or_be_shipped() -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "mine.yaml"
        path.write_text("version: 1\nname: mine\nextends: default\n", encoding="utf-8")
        (Path(directory) / "default.yaml").write_text(
            yaml.safe_dump(tiny() | {"name": "default"}, sort_keys=False), encoding="utf-8"
        )
        found = read_policy(path)
    assert found.base is not None
    assert set(found.base.parts.programs) == {"ls", "rm", "curl", "ship"}
    with tempfile.TemporaryDirectory() as shipped, tempfile.TemporaryDirectory() as directory:
        write(Path(shipped), tiny())
        path = write(Path(directory), {"version": 1, "name": "mine", "extends": "tiny"})
        before, policy.__dict__["BUNDLE_DIRECTORY"] = policy.BUNDLE_DIRECTORY, Path(shipped)
        try:
            found = read_policy(path)
        finally:
            policy.__dict__["BUNDLE_DIRECTORY"] = before
    assert found.base is not None
    assert found.base.name == "tiny"


def test_bundles_that_extend_each_other_are_told_so() -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = write(Path(directory), {"version": 1, "name": "b", "extends": "a"})
        write(Path(directory), {"version": 1, "name": "a", "extends": "b"})
        with pytest.raises(BundleError, match="bundles extend each other: b -> a"):
            read_policy(path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"sinks": ["/etc/passwd"]}, "'/etc/passwd' may hold something"),
        ({"environment": ["LD_PRELOAD"]}, "chooses what runs"),
        ({"raises": [{"id": "a.b", "when": {"rule": ["x"]}, "to": {"R0": "R1"}, "reason": "why"}]}, "no circumstance"),
        ({"tools": [{"adapter": "fields", "names": ["t"], "fields": {"a": "nothing"}, "class": "R0", "reason": "why",
                     "examples": [{"arguments": {"a": "b"}, "risk": "R0"}]}]}, "no role"),
    ],
)  # fmt: skip
def test_what_no_bundle_may_say_is_refused(change: dict[str, Any], why: str) -> None:
    assert why in refused(tiny() | change)

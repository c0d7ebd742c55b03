"""What a word means by its role: each rule of it alone, on a small bundle."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from deployments.gate.findings import OPAQUE, UNKNOWN, Facts
from deployments.gate.grammar import BundleError
from deployments.gate.paths import UNREGISTERED
from deployments.gate.policy import Bundle, read_policy
from deployments.gate.roles import judge_implied, judge_input, judge_objects, judge_path, judge_target, judge_word
from deployments.gate.shell.atoms import Word
from deployments.gate.specs import Target
from deployments.gate.tables import Egress, Env, Sensitivity
from tests.unit.gate.tiny import tiny, write

WORKSPACE = ["nonprod here"]
NOBODY = "prod sensitive"
FAR = "prod sensitive other"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    said: dict[str, Any] = tiny()
    said["words"] |= {
        "letters": "[a-z]+",
        "spot": "[^:-][^:]*",
        "query": "repos/[a-z/]+(\\?[a-z=&0-9]*)?",
        "listed": ".*",
    }
    said["word_uses"] = {"spot": "any-file", "query": "query", "listed": "read"}
    said["targets"]["path"][0]["match"] += ["*/id_rsa"]
    said["targets"]["path"][2] = {"match": ["/[!o]*", "~", "~/*", "..", "../*"], "env": "prod"}
    said["targets"]["host"] += [{"match": ["127.0.0.1", "::1"], "env": "nonprod"}]
    said["targets"] |= {
        "written": [{"match": ["*/hooks/*"], "class": "R3"}, {"match": ["*/kept/*"], "env": "nonprod"}],
        "namespace": [
            {"match": ["169.254.*"], "env": "prod", "class": "FORBIDDEN"},
            {"match": ["@default", "lab"], "env": "nonprod"},
            {"match": ["kube-system"], "env": "prod", "sensitivity": "sensitive"},
            {"match": ["*"], "env": "prod"},
        ],
        "container": [{"match": ["web"], "env": "nonprod"}],
        "release": [{"match": ["*"], "env": "prod"}],
        "resource": [
            {"match": ["pods"]},
            {"match": ["secrets"], "sensitivity": "sensitive"},
            {"match": ["namespaces", "ns"], "cluster_scoped": True, "names": "namespace"},
        ],
    }
    said["programs"]["kube"] = {"args": ["name"], "targets": ["namespace", "place"]}
    said["rules"] += [{"id": "kube.go", "commands": ["kube"], "class": "R0", "reason": "reads", "match": ["kube a"]}]
    return read_policy(write(tmp_path_factory.mktemp("small"), said))


@dataclass(frozen=True)
class Seen:
    """What was collected: the classes, the kinds, and each target in words."""

    classes: list[str]
    targets: list[str]
    kinds: set[str]


def shape(target: Target) -> str:
    said = [
        target.env.value if target.env else "-",
        "sensitive" if target.sensitivity is Sensitivity.SENSITIVE else "",
        target.egress.value if target.egress is not Egress.NONE else "",
        target.class_of.prod.value if target.class_of else "",
        "here" if target.workspace else "",
    ]
    return " ".join(each for each in said if each)


def seen(facts: Facts) -> Seen:
    return Seen([each.prod.value for each in facts.classes], [shape(each) for each in facts.targets], facts.kinds)


def judged(
    small: Bundle, role: str, word: Word, given: Sequence[str] = (), directories: Sequence[str | None] = (".",)
) -> Facts:
    facts = Facts(given=set(given))
    judge_word(small, facts, role, word, directories)
    return facts


@pytest.mark.parametrize(
    ("role", "word", "fits"),
    [
        ("spot", Word("src/*", glob=True), True),
        ("spot", Word("src/a*/b", glob=True), True),
        ("spot", Word("a:b/*", glob=True), False),
        ("spot", Word("-a/*", glob=True), False),
        ("spot", Word("src*", glob=True), False),
        ("spot", Word("s*/b", glob=True), False),
        ("spot", Word("[a]/b", glob=True), False),
        ("spot", Word("a:b"), False),
        ("spot", Word(None), False),
        ("spot", Word(None, starts="./"), False),
        ("spot", Word(None, kind="path", below=(".", "./x"), dashless=True), True),
        ("spot", Word(None, kind="path", below=(".", "h:x"), dashless=True), False),
        ("spot", Word(None, kind="path", below=(".",)), False),
        ("spot", Word(None, kind="path", dashless=True), False),
        ("letters", Word("a/*", glob=True), False),
        ("letters", Word(None, kind="path", below=("a",), dashless=True), False),
        ("query", Word("repos/o/r?a=3", glob=True), True),
        ("query", Word("repos/o/r?a", glob=True), False),
        ("query", Word("repos/o?r/a=3", glob=True), False),
        ("query", Word("repos/o/*?a=3", glob=True), False),
        ("query", Word("repos/o/r?a=3?b=4", glob=True), False),
        ("query", Word("user/o/r?a=3", glob=True), False),
        ("query", Word(None), False),
    ],
)
def test_what_a_pattern_says_of_names_that_are_not_known(small: Bundle, role: str, word: Word, fits: bool) -> None:
    assert seen(judged(small, role, word)).classes == ([] if fits else ["UNKNOWN"])


def test_a_pattern_may_name_a_file_that_is_read(small: Bundle) -> None:
    assert seen(judged(small, "listed", Word("src/a.py"))) == Seen([], [], set())
    assert seen(judged(small, "listed", Word("x/id_rsa"))) == Seen([], ["- sensitive"], set())
    assert seen(judged(small, "letters", Word("id_rsa"))) == Seen(["UNKNOWN"], [], set())


def test_what_a_pattern_is_used_for_is_said_beside_it(tmp_path: Path) -> None:
    said: dict[str, Any] = tiny()
    said["word_uses"] = {"elsewhere": "any-file"}
    with pytest.raises(BundleError, match="no word of this file: elsewhere"):
        read_policy(write(tmp_path, said))


@pytest.mark.parametrize(
    ("role", "text", "classes"),
    [
        ("sql-postgres", "select 1;\nselect a::text from t", []),
        ("sql-postgres", "drop table t", ["R3"]),
        ("sql-postgres", "select 1 \\gexec", ["OPAQUE"]),
        ("sql-postgres", "select :a", ["OPAQUE"]),
        ("sql-postgres", "select :'a'", ["OPAQUE"]),
        ("sql-sqlite", "select 1;\n.shell id", ["OPAQUE"]),
        ("sql-sqlite", "select 1\n GO \n", ["OPAQUE"]),
        ("sql-sqlite", "select 1\n/\n", ["OPAQUE"]),
        ("sql-mysql", "# a\nselect 1", ["OPAQUE"]),
        ("sql-mysql", None, ["OPAQUE"]),
        (None, "select 1", ["OPAQUE"]),
    ],
)
def test_what_a_client_reads_on_its_input(role: str | None, text: str | None, classes: list[str]) -> None:
    facts = Facts()
    judge_input(facts, role, text)
    assert seen(facts).classes == classes


@pytest.mark.parametrize("role", ["text", "name-regex", "name-extension"])
def test_any_word_may_be_a_text(small: Bundle, role: str) -> None:
    for word in (
        Word("A;b"),
        Word(None),
        Word(None, kind="name"),
        Word("a", symbolic=True),
        Word("x~/a.pem"),
        Word("@a"),
    ):
        assert seen(judged(small, role, word)) == Seen([], [], set()), word
    for text in ("@./.env", "@~/a.pem", "@/x/id_rsa", "@.env"):
        assert seen(judged(small, role, Word(text))) == Seen([], ["- sensitive"], set()), text


def test_a_file_of_arguments_counts_in_every_role(small: Bundle) -> None:
    assert seen(judged(small, "letters", Word("@/x/id_rsa"))) == Seen(["UNKNOWN"], ["- sensitive"], set())


@pytest.mark.parametrize(
    ("word", "fits"),
    [
        (Word("a-1"), True),
        (Word("A"), False),
        (Word("a", glob=True), False),
        (Word(None), False),
        (Word(None, kind="path"), False),
        (Word("a", symbolic=True), False),
        (Word("A", kind="number"), False),
    ],
)
def test_a_word_must_fit_its_pattern(small: Bundle, word: Word, fits: bool) -> None:
    facts = judged(small, "name", word)
    assert (facts.classes, facts.targets, facts.kinds) == ([] if fits else [UNKNOWN], [], set())


@pytest.mark.parametrize(
    ("word", "fits"),
    [
        (Word("a"), True),
        (Word("*a"), True),
        (Word("a*", glob=True), True),
        (Word(""), False),
        (Word("@a"), False),
        (Word("+a"), False),
        (Word("*a", glob=True), False),
        (Word("?a", glob=True), False),
        (Word("[a]", glob=True), False),
        (Word(None), False),
        (Word(None, starts="a"), True),
        (Word(None, starts="@x"), False),
    ],
)
def test_an_operand_may_stand_for_arguments(small: Bundle, word: Word, fits: bool) -> None:
    facts = judged(small, "operand", word)
    assert facts.classes == ([] if fits else [UNKNOWN])
    assert facts.kinds == {"path"}
    assert facts.targets


def test_a_path_is_judged_by_where_it_leads(small: Bundle) -> None:
    for role in ("file", "operand"):
        assert seen(judged(small, role, Word("a"))) == Seen([], WORKSPACE, {"path"})
        assert seen(judged(small, role, Word("a"), directories=["/x"])) == Seen([], ["prod"], {"path"})
    assert seen(judged(small, "file", Word("a", symbolic=True))) == Seen([], WORKSPACE, {"path"})
    assert seen(judged(small, "file", Word(None, kind="path", below=("a",)))) == Seen([], WORKSPACE, {"path"})
    assert seen(judged(small, "file", Word("a/hooks/b"))) == Seen([], WORKSPACE, {"path"})


def test_what_is_written_is_asked_for_twice(small: Bundle) -> None:
    facts = judged(small, "written", Word("a"))
    assert (seen(facts), facts.notes) == (Seen([], WORKSPACE, {"path"}), [])
    facts = judged(small, "written", Word("a/kept/b"))
    assert (seen(facts), facts.notes) == (Seen([], [*WORKSPACE, "nonprod"], {"path"}), [])
    facts = judged(small, "written", Word("a/hooks/kept/b"))
    assert seen(facts) == Seen([], [*WORKSPACE, "- R3"], {"path"})
    assert facts.notes == ["writes 'a/hooks/kept/b', which others run or obey"]
    # One of two places is enough.
    facts = judged(small, "written", Word("b"), directories=["./kept", "./hooks"])
    assert len(facts.notes) == 1
    below = Word(None, kind="path", below=("a",))
    assert seen(judged(small, "written", below)) == Seen([], [NOBODY], {"path"})


def test_later_paths_begin_in_the_directory_that_was_gone_to(small: Bundle) -> None:
    facts = judged(small, "directory", Word("src"), directories=[".", "/x"])
    assert (facts.bases, seen(facts)) == (["./src", "/x/src"], Seen([], ["nonprod here", "prod"], {"path"}))
    judge_path(small, facts, "directory", Word(".."), ["/never"])
    assert facts.bases == [".", "/x"]
    judge_path(small, facts, "file", Word("a"), ["/opt"])
    assert [shape(target) for target in facts.targets[-2:]] == ["nonprod here", "prod"]
    for word in (Word("s*", glob=True), Word(None)):
        facts = judged(small, "directory", word)
        assert (facts.bases, facts.targets) == ([None], [UNREGISTERED])


@pytest.mark.parametrize(
    ("role", "text", "targets"),
    [
        ("file-glob", "id_rsa", ["- sensitive"]),
        ("file-glob", "a|id_rsa", []),
        ("file-regex", "a|id_rs", ["- sensitive"]),
        ("file-regex", "a", []),
    ],
)
def test_patterns_of_names_pick_what_is_sensitive(small: Bundle, role: str, text: str, targets: list[str]) -> None:
    assert seen(judged(small, role, Word(text))) == Seen([], targets, set())


@pytest.mark.parametrize(
    ("word", "classes"),
    [
        (Word("select 1"), []),
        (Word("drop table x"), ["R3"]),
        (Word("select *", glob=True), ["OPAQUE"]),
        (Word(None), ["OPAQUE"]),
    ],
)
def test_statements_are_read(small: Bundle, word: Word, classes: list[str]) -> None:
    facts = judged(small, "sql-postgres", word)
    assert seen(facts) == Seen(classes, [], set())
    assert bool(facts.notes) == bool(classes)


@pytest.mark.parametrize(
    ("word", "fits"),
    [(Word("5p"), True), (Word("w x"), False), (Word("5p", glob=True), False), (Word(None), False)],
)
def test_scripts_are_read(small: Bundle, word: Word, fits: bool) -> None:
    assert seen(judged(small, "sed-script", word)) == Seen([] if fits else ["UNKNOWN"], [], set())


@pytest.mark.parametrize(
    ("role", "word", "classes"),
    [
        ("name", Word(None, kind="number"), []),
        ("name", Word(None, kind="hash"), []),
        ("name", Word(None, kind="integer"), []),
        ("name", Word(None, kind="name"), []),
        ("name", Word(None, kind="kube-name"), []),
        ("name", Word(None, kind="ref"), ["UNKNOWN"]),
        ("letters", Word(None, kind="name"), ["UNKNOWN"]),
        ("letters", Word(None, kind="kube-name"), ["UNKNOWN"]),
        ("letters", Word(None, kind="number"), ["UNKNOWN", "UNKNOWN"]),
        ("letters", Word(None, kind="made", of=("a", "b")), []),
        ("letters", Word(None, kind="made", of=("a", "7")), ["UNKNOWN"]),
        ("sed-script", Word(None, kind="made", of=("5p", "7p")), []),
        ("sed-script", Word(None, kind="number"), []),
        ("sed-script", Word(None, kind="made", of=("5,+3p;7q", "7{p;d}")), []),
        ("sed-script", Word(None, kind="made", of=("7w x", "5p")), ["UNKNOWN"]),
        ("sed-script", Word(None, kind="name"), ["UNKNOWN"]),
        ("host", Word(None, kind="number"), ["UNKNOWN"]),
        ("release", Word(None, kind="kube-name"), ["UNKNOWN"]),
        ("spot", Word(None, kind="name"), ["UNKNOWN"]),
    ],
)
def test_a_word_of_a_known_kind(small: Bundle, role: str, word: Word, classes: list[str]) -> None:
    assert seen(judged(small, role, word)) == Seen(classes, [], set())


def test_a_name_that_is_not_known_may_be_any_target(small: Bundle) -> None:
    every = ["prod FORBIDDEN", "nonprod", "prod sensitive", "prod"]
    assert seen(judged(small, "namespace", Word(None, kind="kube-name"))) == Seen([], every, {"namespace"})
    assert seen(judged(small, "container", Word(None, kind="name"))) == Seen([], ["nonprod", NOBODY], {"container"})
    assert seen(judged(small, "container", Word(None, kind="number"))) == Seen([], [NOBODY] * 2, {"container"})
    unregistered = replace(small, targets={})
    assert judged(unregistered, "container", Word(None, kind="name")).targets == [UNREGISTERED]
    above = replace(small, targets={"container": small.targets["container"]}, base=replace(small, targets={}))
    assert seen(judged(above, "container", Word(None, kind="name"))).targets == ["nonprod", NOBODY]
    above = replace(small, targets={}, base=small)
    assert seen(judged(above, "namespace", Word(None, kind="kube-name"))).targets == every


@pytest.mark.parametrize(
    ("kind", "text", "targets", "notes"),
    [
        ("namespace", "lab", ["nonprod"], []),
        ("namespace", "shop", ["prod"], []),
        ("namespace", "kube-system", ["prod sensitive"], ["the namespace 'kube-system' is sensitive"]),
        ("namespace", None, [NOBODY], ["the namespace unknown is not registered"]),
        ("namespace", "2852039166", ["prod"], []),
        ("container", "x", [NOBODY], ["the container 'x' is not registered"]),
        ("host", "localhost", ["nonprod"], []),
        ("host", "mirror.example.com", ["nonprod listed"], []),
        ("host", "evil", [FAR], ["the host 'evil' is not registered"]),
        ("host", None, [FAR], ["the host unknown is not registered"]),
        (
            "host",
            "169.254.169.254",
            ["prod sensitive FORBIDDEN"] * 2,
            ["the host '169.254.169.254' is registered as FORBIDDEN"],
        ),
        ("host", "2852039166", ["prod sensitive FORBIDDEN", FAR], ["the host '2852039166' is not registered"]),
        ("host", "2130706433", [FAR], ["the host '2130706433' is not registered"]),
        ("host", "10.1", [FAR], ["the host '10.1' is not registered"]),
    ],
)
def test_what_is_not_registered_is_the_worst(
    small: Bundle, kind: str, text: str | None, targets: list[str], notes: list[str]
) -> None:
    facts = Facts()
    judge_target(small, facts, kind, text)
    assert (seen(facts), facts.notes) == (Seen([], targets, set()), notes)


def test_a_word_names_a_target_unless_the_shell_may_replace_it(small: Bundle) -> None:
    assert seen(judged(small, "namespace", Word("lab"))) == Seen([], ["nonprod"], {"namespace"})
    for word in (Word("lab*", glob=True), Word(None)):
        assert seen(judged(small, "namespace", word)) == Seen([], [NOBODY], {"namespace"})
    assert seen(judged(small, "namespace", Word("lab", symbolic=True))).classes == ["UNKNOWN"]


def test_what_no_word_named_is_the_default(small: Bundle) -> None:
    node = small.parts.programs["kube"]
    for kinds, scoped, found in [
        (set[str](), False, ["nonprod", "nonprod"]),
        ({"namespace"}, False, ["nonprod"]),
        ({"namespace", "place"}, False, []),
        (set[str](), True, ["nonprod"]),
        ({"place"}, True, []),
    ]:
        facts = Facts(kinds=set(kinds), targets=[Target(), Target(cluster_scoped=scoped)])
        judge_implied(small, facts, node)
        assert [shape(target) for target in facts.targets[2:]] == found, (kinds, scoped)


EVERY = ["prod FORBIDDEN", "nonprod", "prod sensitive", "prod"]
NAMED = Word(None, kind="kube-name")


@pytest.mark.parametrize(
    ("words", "targets"),
    [
        ([Word("pods")], ["-"]),
        ([Word("pods"), Word("a"), Word("b")], ["-"]),
        ([Word("pods,secrets"), Word("a")], ["-", "- sensitive"]),
        ([Word("Pods.v1.apps")], ["-"]),
        ([Word("nodes")], [NOBODY]),
        ([Word("ns")], ["-", "prod"]),
        ([Word("ns"), Word("lab")], ["-", "nonprod"]),
        ([Word("ns"), Word("lab"), Word("kube-system"), Word("x")], ["-", "nonprod", "prod sensitive", "prod"]),
        ([Word("ns/lab")], ["-", "nonprod"]),
        ([Word("ns/lab"), Word("pods/x"), Word("Ns/kube-system")], ["-", "nonprod", "-", "-", "prod sensitive"]),
        ([Word("pods"), Word("ns/lab")], ["-", "nonprod", "-"]),
        ([Word("ns/lab"), Word("ns"), Word("kube-system")], ["-", "nonprod", "-", "prod sensitive"]),
        ([Word("p*", glob=True)], [NOBODY]),
        ([Word("p*", glob=True), Word("lab")], [NOBODY]),
        ([Word("ns/*", glob=True)], [NOBODY]),
        ([Word("ns"), Word("l*", glob=True)], ["-", NOBODY]),
        ([Word("ns"), Word(None)], ["-", NOBODY]),
        ([Word(None)], [NOBODY]),
        ([Word(None, kind="kube-object", of=("pods",))], ["-"]),
        ([Word(None, kind="kube-object", of=("pods", "secrets"))], ["-", "- sensitive"]),
        ([Word(None, kind="kube-object")], [NOBODY]),
        ([Word(None, kind="kube-object", of=("ns",))], ["-", *EVERY]),
        ([Word("ns"), NAMED], ["-", *EVERY]),
        ([Word("ns"), NAMED, Word("lab")], ["-", *EVERY, "nonprod"]),
        ([NAMED], [NOBODY]),
        ([Word("pods"), Word(None, kind="kube-object", of=("secrets",))], ["- sensitive", "-"]),
        ([], []),
    ],
)
def test_types_and_names_of_objects(small: Bundle, words: list[Word], targets: list[str]) -> None:
    facts = Facts()
    judge_objects(small, facts, words)
    assert seen(facts) == Seen([], targets, set())


HOST = ["nonprod"]


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("http://localhost/a", HOST),
        ("localhost", HOST),
        ("https://LOCALHOST.:80", HOST),
        ("localhost?a=b", HOST),
        ("http://[::1]/", HOST),
        ("http://localhost/.env", [*HOST, "- sensitive"]),
        ("http://localhost/a?b=/.env", HOST),
        ("http://evil/", [FAR]),
    ],
)
def test_an_address_leads_to_its_host(small: Bundle, text: str, targets: list[str]) -> None:
    assert seen(judged(small, "url", Word(text))) == Seen([], targets, {"host"})


@pytest.mark.parametrize(
    "word",
    [
        Word(None),
        Word("http://localhost/{a,b}"),
        Word("http://localhost/[1-9]"),
        Word("ftp://localhost/"),
        Word("http://a@localhost/"),
        Word("localhost", symbolic=True),
    ],
)
def test_other_addresses_are_not_known(small: Bundle, word: Word) -> None:
    facts = judged(small, "url", word)
    assert (facts.understood, facts.kinds) == (False, {"host"})
    assert OPAQUE not in facts.classes


def test_brackets_are_plain_where_curl_takes_them_so(small: Bundle) -> None:
    for flag in ("-g", "--globoff"):
        assert seen(judged(small, "url", Word("http://localhost/[1]"), given=[flag])) == Seen([], HOST, {"host"})
    assert judged(small, "url", Word("http://localhost/[1]"), given=["-s"]).classes == [UNKNOWN]
    assert judged(small, "url", Word("http://localhost/{a}"), given=["-g"]).classes == [UNKNOWN]


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("http://localhost/a*", True),
        ("http://localhost/a?b=c", True),
        ("http://[::1]/", True),
        ("http://[::1]:80/a.b-c/d", True),
        ("http://[::1]/a?b", False),
        ("http://[::2]/a", False),
        ("localhost?a=b", False),
        ("http://[::1]?a", False),
    ],
)
def test_an_address_that_the_shell_may_replace(small: Bundle, text: str, known: bool) -> None:
    facts = judged(small, "url", Word(text, glob=True))
    assert facts.understood is known
    assert bool(facts.targets) is known


def test_the_environment_of_a_path_is_its_own(small: Bundle) -> None:
    assert {target.env for target in judged(small, "file", Word("/x")).targets} == {Env.PROD}

"""What a path may lead to: each rule of it alone, on a small bundle."""

from collections.abc import Sequence
from typing import Any

import pytest

from deployments.gate import paths
from deployments.gate.paths import MAX_DIRECTORIES, UNREGISTERED, followed, names, normal_path
from deployments.gate.policy import Bundle, read_policy
from deployments.gate.shell.atoms import Word
from deployments.gate.specs import Target
from deployments.gate.tables import Env, Sensitivity
from tests.unit.gate.tiny import tiny, write

SENSITIVE, NORMAL = Sensitivity.SENSITIVE, Sensitivity.NORMAL


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    said: dict[str, Any] = tiny()
    said["targets"]["path"] = [
        {
            "match": ["*/.env", "*/id_rsa", "/etc/keys/*", "~", "~/.ssh/*", "*/k/*"],
            "env": "prod",
            "sensitivity": "sensitive",
        },
        {"match": ["/srv/*", "/srv"], "env": "nonprod"},
        {"match": [".", "./*"], "env": "nonprod", "workspace": True},
        {"match": ["/[!o]*", "~/*", "../*", ".."], "env": "prod"},
    ]
    said["targets"]["written"] = [{"match": ["*/hooks/*", "*/.husky/*"], "class": "R3"}]
    return read_policy(write(tmp_path_factory.mktemp("small"), said))


def seen(found: Sequence[Target]) -> set[str]:
    """Each target in a word: `here` is the workspace, `dev` other non-production, `prod` or `secret` the rest."""
    return {
        "unknown"
        if target == UNREGISTERED
        else "run"
        if target.class_of
        else "secret"
        if target.sensitivity is SENSITIVE
        else "here"
        if target.workspace
        else "dev"
        if target.env is Env.NONPROD
        else "prod"
        for target in found
    }


def look(small: Bundle, text: str, *directories: str | None, glob: bool = False) -> set[str]:
    return seen(paths.targets(small, Word(text, glob), directories or (".",)))


@pytest.mark.parametrize(
    ("directory", "text", "found"),
    [
        ("~", "~-", None),
        ("~", "~+", "~"),
        ("~/a", "~+/b", "~/a/b"),
        # What follows is below the directory, whatever it looks like.
        ("/srv", "~+//x", "/srv/x"),
        ("/srv", "~+/~/x", "/srv/~/x"),
        ("/srv", "~+/../x", "/x"),
        (None, "~+//x", None),
        (".", "~//../x", "../x"),
        (".", "~///../../etc/x", "../../etc/x"),
        (".", "~//a/..", "~"),
        (".", "~/..", ".."),
        ("~/a", "../../x", "../x"),
        ("../a", "b", "../a/b"),
        ("../a", "..", ".."),
        ("./a", "..", "."),
        ("./a", "", "./a"),
        (".", "...", "./..."),
        (".", "..a", "./..a"),
        (".", "~/..a", "~/..a"),
        (".", "~///", "~"),
        (".", "///etc", "/etc"),
        (".", "//etc", "/etc"),
        (".", "/etc/", "/etc"),
        (".", "~a", "/home/a"),
        (".", "~root/../x", "/x"),
    ],
)
def test_where_a_path_begins(directory: str | None, text: str, found: str | None) -> None:
    assert normal_path(directory, text) == found


@pytest.mark.parametrize(
    ("place", "text", "found"),
    [
        ("./a", "", ("./a",)),
        ("..", "..", ("..", "/")),
        ("./x", "a/../x", ("./x", "a/../x", "/x")),
        (".", "a/..", (".", "a/..")),
        (".", "a/../", (".", "a/../")),
        ("./home/b", "a/../home/b", ("./home/b", "a/../home/b", "/home/b", "~")),
        ("../home/b", "../home/b", ("../home/b", "/home/b", "~")),
        ("./x", "./../y/x", ("./x",)),
        ("./b/x", "a/../b/c/../x", ("./b/x", "a/../b/c/../x", "/x")),
    ],
)
def test_all_names_of_a_place(place: str, text: str, found: tuple[str, ...]) -> None:
    assert names(place, text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a", {"here"}),
        ("/srv/a", {"dev"}),
        ("/x", {"prod"}),
        ("a/.env", {"secret"}),
        ("/etc/keys", {"prod", "secret"}),
        ("~/.ssh", {"prod", "secret"}),
        ("/home/ann", {"prod", "secret"}),
        ("../srv/a", {"prod", "dev"}),
        ("a:~/.ssh/b", {"here", "secret"}),
        ("/opt/x", {"unknown"}),
        ("a:/x:~/y", {"here", "prod"}),
        ("~-/a", {"unknown"}),
    ],
)
def test_where_a_path_leads(small: Bundle, text: str, found: set[str]) -> None:
    assert look(small, text) == found


def test_every_directory_counts(small: Bundle) -> None:
    assert look(small, "a", ".", "/x") == {"here", "prod"}
    assert look(small, "a", "/srv", ".") == {"dev", "here"}
    assert look(small, "a", ".", None) == {"here", "unknown"}
    assert look(small, "/srv/a", None) == {"dev"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a*", {"here"}),
        ("a/.e*", {"unknown"}),
        ("a/../b*", {"unknown"}),
        ("a/b*/../c", {"unknown"}),
        ("..a*", {"unknown"}),
        ("a..b*", {"here"}),
        ("a*:k", {"here", "secret"}),
        ("id_r*", {"secret", "here"}),
        ("~/x*", {"prod"}),
        ("/etc/key*", {"prod", "secret"}),
        ("/srv/x?", {"dev"}),
        ("/opt/x?", {"unknown"}),
    ],
)
def test_where_a_glob_leads(small: Bundle, text: str, found: set[str]) -> None:
    assert look(small, text, glob=True) == found


def test_a_mark_without_a_wildcard_is_a_plain_path(small: Bundle) -> None:
    assert look(small, "~/.ssh", glob=True) == {"prod", "secret"}
    assert look(small, "id_r*") == look(small, "id_r") == {"here"}


def test_what_is_only_known_by_where_it_lies(small: Bundle) -> None:
    assert seen(paths.targets(small, Word(None, below=("a", "/x")), ["."])) == {"here", "prod"}
    assert seen(paths.targets(small, Word(None, below=("id_r*",)), ["."])) == {"secret", "here"}
    assert paths.targets(small, Word(None), ["."]) == [UNREGISTERED]


def test_what_nothing_says_of_another_kind_has_no_say(small: Bundle) -> None:
    for word, found in [
        (Word("a"), set[str]()),
        (Word("a/hooks/b"), {"run"}),
        (Word("a/hook*", glob=True), {"run"}),
        (Word("a/*.py", glob=True), set[str]()),
        (Word("a/hooks/*", glob=True), {"run"}),
        (Word("a/.e*", glob=True), set[str]()),
        (Word("a/.husky/.p*", glob=True), {"run"}),
        (Word(None), set[str]()),
        (Word(None, below=("a/hooks/b", "c")), {"run"}),
        (Word("a/../*", glob=True), set[str]()),
    ]:
        assert seen(paths.targets(small, word, ["."], "written")) == found, word
    assert paths.targets(small, Word("a"), [None], "written") == []
    assert seen(paths.targets(small, Word("a"), [None, "./hooks"], "written")) == {"run"}


def test_a_directory_that_is_gone_to(small: Bundle) -> None:
    assert seen(paths.directory_targets(small, Word("/etc/keys"), ["."])) == {"prod"}
    assert seen(paths.directory_targets(small, Word("a"), [".", "/srv", None])) == {"here", "dev", "unknown"}
    assert paths.directory_targets(small, Word("a", glob=True), ["."]) == [UNREGISTERED]
    assert paths.directory_targets(small, Word(None), ["."]) == [UNREGISTERED]


def test_what_can_only_make_it_sensitive(small: Bundle) -> None:
    for found in (
        paths.web_targets(small, "/a/.env?x=y"),
        paths.web_targets(small, "/.env/"),
        paths.sensitive_targets(small, Word("a:~/.ssh/b"), ["."]),
    ):
        assert [(target.sensitivity, target.env, target.workspace) for target in found] == [(SENSITIVE, None, False)]
    assert paths.web_targets(small, "/a?x=/.env") == []
    assert paths.sensitive_targets(small, Word("a"), ["."]) == []


@pytest.mark.parametrize(
    ("text", "regex", "found"),
    [
        (".env", False, {"secret"}),
        (".ENV", False, {"secret"}),
        ("/.env", False, {"secret"}),
        ("./a/.env", False, {"secret"}),
        ("ID_R*", False, {"secret"}),
        ("id_r*", False, {"secret"}),
        (".e*", False, {"unknown"}),
        ("!.env", False, set[str]()),
        ("!.e*", False, set[str]()),
        ("!a/.env", False, set[str]()),
        ("k", False, {"secret"}),
        ("a*", False, set[str]()),
        ("a", False, set[str]()),
        (r"id_rsa$", True, {"secret"}),
        (r"a|id_rs", True, {"secret"}),
        (r"id_rs|a", True, {"secret"}),
        (r"a", True, set[str]()),
        (r"!id_rsa", True, set[str]()),
        (r"id_rsa", False, {"secret"}),
    ],
)
def test_what_a_pattern_picks(small: Bundle, text: str, regex: bool, found: set[str]) -> None:
    picked = paths.chosen_targets(small, Word(text), regex)
    assert seen(picked) == found
    assert all(target.env is None for target in picked if target != UNREGISTERED)


def test_a_pattern_that_nobody_knows(small: Bundle) -> None:
    assert paths.chosen_targets(small, Word(None)) == [UNREGISTERED]
    assert paths.chosen_targets(small, Word(None), regex=True) == [UNREGISTERED]


def cd(*words: str | Word, program: str = "cd", directories: Sequence[str | None] = (".",)) -> list[str | None]:
    argv = [Word(program), *(Word(word) if isinstance(word, str) else word for word in words)]
    return followed(directories, argv)


TOP = Word(None, of=("top",))


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["a"], [".", "./a"]),
        (["."], ["."]),
        (["-P", "a"], [".", "./a"]),
        (["-LPe@", "--", "a"], [".", "./a"]),
        (["-x", "a"], [".", "./-x", "./a"]),
        (["-"], [".", None]),
        ([], [".", "~"]),
        (["-P"], [".", "~"]),
        (["a", "b"], [".", "./a", "./b"]),
        (["a", "-P"], [".", "./a", "./-P"]),
        ([Word("a*", glob=True)], [".", None]),
        ([Word(None)], [".", None]),
        ([Word(None, loose=True)], [".", None, "~"]),
        ([Word("a", loose=True)], [".", "./a", "~"]),
        ([TOP], ["."]),
        (["/x"], [".", "/x"]),
    ],
)
def test_where_a_change_of_directory_may_lead(words: list[str | Word], found: list[str | None]) -> None:
    assert cd(*words) == found


def test_other_programs_change_no_directory() -> None:
    assert cd("/x", program="ls") == ["."]
    assert cd("/x", program="pushd") == [".", "/x"]
    assert cd(program="pushd") == ["."]
    before: list[str | None] = ["."]
    assert cd("a", directories=before) == [".", "./a"]
    assert before == ["."]


def test_every_place_is_gone_on_from() -> None:
    assert cd("b", directories=[".", "./a"]) == [".", "./a", "./b", "./a/b"]
    assert cd("b", directories=[None, "/x"]) == [None, "/x", "/x/b"]


def test_the_root_of_the_work_is_known_inside_of_it_alone() -> None:
    assert cd(TOP, directories=["./a", "."]) == ["./a", "."]
    for place in ("/x", "~", "..", None):
        assert None in cd(TOP, directories=["./a", place]), place
    assert cd(Word(None, of=("other",)), directories=["./a"]) == ["./a", None]


def test_more_places_than_can_be_kept_are_none_that_is_known() -> None:
    places = [f"./{number}" for number in range(MAX_DIRECTORIES)]
    assert cd(".", directories=places) == places
    assert cd("/x", directories=places) == [None]

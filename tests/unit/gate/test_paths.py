"""What a path may lead to: names that a text does not show, and globs made for a registered place."""

import pytest

from deployments.gate import paths
from deployments.gate.classify import Classifier
from deployments.gate.paths import names, normal_path
from deployments.gate.policy import Bundle
from deployments.gate.shell.atoms import Word
from deployments.gate.tables import Env, Sensitivity
from deployments.ports import GateProfile, Risk


@pytest.mark.parametrize(
    ("directory", "text", "found"),
    [
        (".", "a", "./a"),
        (".", ".", "."),
        (".", "", "."),
        (".", "..", ".."),
        (".", "../", ".."),
        (".", "a/../..", ".."),
        (".", "../a", "../a"),
        (".", "./a//b/", "./a/b"),
        (".", "/etc//shadow", "/etc/shadow"),
        (".", "//etc/shadow", "/etc/shadow"),
        (".", "/a/../etc", "/etc"),
        ("./src", "../a", "./a"),
        ("./src", "a", "./src/a"),
        ("/etc", "shadow", "/etc/shadow"),
        ("~", ".ssh/id", "~/.ssh/id"),
        ("~/a", "../.ssh", "~/.ssh"),
        ("~", "..", ".."),
        ("~", "../../etc/shadow", "../../etc/shadow"),
        (".", "~", "~"),
        (".", "~/", "~"),
        (".", "~/.", "~"),
        (".", "~/a/..", "~"),
        (".", "~/a/./b", "~/a/b"),
        (".", "~/..", ".."),
        (".", "~/../bob", "../bob"),
        (".", "~//etc", "~/etc"),
        (".", "~root", "/root"),
        (".", "~root/x", "/root/x"),
        (".", "~bob", "/home/bob"),
        (".", "~bob/../x", "/home/x"),
        ("/srv", "~+/x", "/srv/x"),
        ("/srv", "~+", "/srv"),
        (None, "~+/x", None),
        ("/srv", "~-", None),
        ("/srv", "~-/x", None),
        ("/srv", "~1/x", None),
        ("/srv", "~+1/x", None),
        ("/srv", "~-1/x", None),
        (None, "x", None),
        (None, "/x", "/x"),
        (None, "~/x", "~/x"),
    ],
)
def test_where_a_path_begins(directory: str | None, text: str, found: str | None) -> None:
    assert normal_path(directory, text) == found


@pytest.mark.parametrize(
    ("place", "text", "found"),
    [
        ("./a", "a", {"./a"}),
        ("..", "..", {"..", "/"}),
        ("../..", "../..", {"../..", "/"}),
        ("../../etc/x", "../../etc/x", {"../../etc/x", "/etc/x"}),
        ("/home/bob", "/home/bob", {"/home/bob", "~"}),
        ("/Users/bob", "/Users/bob", {"/Users/bob", "~"}),
        ("/home/bob/x", "/home/bob/x", {"/home/bob/x"}),
        ("./x", "link/../x", {"./x", "link/../x", "/x"}),
        ("./x", "a/link//../x", {"./x", "a/link//../x", "/x"}),
        ("..", "link/../..", {"..", "/", "link/../.."}),
        ("../x", "../x", {"../x", "/x"}),
    ],
)
def test_the_names_of_a_place(place: str, text: str, found: set[str]) -> None:
    assert set(names(place, text)) == found


SENSITIVE = [
    "../../../etc/shadow",
    "../etc/shadow",
    "src/../../../etc/ssl/private/x",
    "link/../etc/shadow",
    "/proc/self/cwd/../../etc/shadow",
    "/proc/self/root/../etc/hosts",
    "/etc/kubernetes",
    "/etc/kube*",
    "/var/lib/kubele?",
    "..",
    "../..",
    "~",
    "~/..",
    "~bob",
    "/home/bob",
    "~root/x",
    "~-/x",
    "~2",
    "HEAD:.env",
    "host:~/.ssh/id_rsa",
    "*/../.env",
    ".e*",
    "./.[a-z]*/x",
]
PLAIN = ["src/../README.md", "../other/README.md", "/home/bob/project/x.py", "/dev/null", "./x", ".", "a*.py", "~/x"]


@pytest.mark.parametrize("text", SENSITIVE)
def test_sensitive_by_another_name(bundle: Bundle, text: str) -> None:
    found = paths.targets(bundle, Word(text, glob=any(char in text for char in "*?[")), ["."])
    assert Sensitivity.SENSITIVE in {target.sensitivity for target in found}


@pytest.mark.parametrize("text", PLAIN)
def test_plain_places_stay_plain(bundle: Bundle, text: str) -> None:
    found = paths.targets(bundle, Word(text, glob="*" in text), ["."])
    assert {target.sensitivity for target in found} == {Sensitivity.NORMAL}


def test_nothing_is_known_without_a_text(bundle: Bundle) -> None:
    assert paths.targets(bundle, Word(None), ["."]) == [paths.UNREGISTERED]
    assert paths.targets(bundle, Word("x"), [None]) == [paths.UNREGISTERED]
    assert paths.targets(bundle, Word("x"), []) == []
    assert paths.targets(bundle, Word(None), ["."], "written") == []
    assert paths.directory_targets(bundle, Word(None), ["."]) == [paths.UNREGISTERED]
    assert paths.directory_targets(bundle, Word("a*", glob=True), ["."]) == [paths.UNREGISTERED]
    assert paths.directory_targets(bundle, Word("x"), [None]) == [paths.UNREGISTERED]
    assert paths.chosen_targets(bundle, Word(None)) == [paths.UNREGISTERED]


def test_a_name_below_what_is_known(bundle: Bundle) -> None:
    found = paths.targets(bundle, Word(None, below=("src", "~/.ss*")), ["."])
    assert {target.sensitivity for target in found} == set(Sensitivity)


@pytest.mark.parametrize("text", [".env", "*.pem", ".e*", "id_rs?", "/.env", "**/.env"])
def test_a_pattern_that_picks_secrets(bundle: Bundle, text: str) -> None:
    found = paths.chosen_targets(bundle, Word(text))
    assert found
    assert all(target.sensitivity is Sensitivity.SENSITIVE and not target.workspace for target in found)


@pytest.mark.parametrize("text", ["*.py", "!.env", "src/**", "Makefile", "*.{ts,js}"])
def test_a_pattern_that_picks_none(bundle: Bundle, text: str) -> None:
    assert paths.chosen_targets(bundle, Word(text)) == []


@pytest.mark.parametrize(
    "text",
    ["~/.bashrc", ".git/hooks/pre-commit", ".github/workflows/ci.yml", "/etc/cron.d/x", "x/../.envrc", ".husky/*",
     ".git/hook*", "../../etc/passwd", "/home/bob/.ssh/authorized_keys", ".vscode/tasks.json",
     "/usr/lib/python3/sitecustomize.py", ".git"],
)  # fmt: skip
def test_what_others_run_or_obey_is_written_by_nobody_alone(bundle: Bundle, text: str) -> None:
    found = paths.targets(bundle, Word(text, glob="*" in text), ["."], "written")
    assert found
    assert all(target.class_of is not None for target in found)


@pytest.mark.parametrize("text", ["src/app.py", "README.md", "tests/conftest.py", ".gitignore", "docs/x.md", "/srv/x"])
def test_plain_work_writes_nothing_of_the_kind(bundle: Bundle, text: str) -> None:
    assert paths.targets(bundle, Word(text), ["."], "written") == []


@pytest.mark.parametrize("path", ["/api/v1/secrets", "/.env", "/api/v1/namespaces/x/secrets/web", "/.aws/credentials"])
def test_an_address_says_what_it_holds(bundle: Bundle, path: str) -> None:
    assert [target.sensitivity for target in paths.web_targets(bundle, path)][:1] == [Sensitivity.SENSITIVE]
    assert {target.env for target in paths.web_targets(bundle, path)} == {None}


def test_a_plain_address_says_nothing(bundle: Bundle) -> None:
    for path in ("", "/", "/healthz", "/v1/models?key=secret"):
        assert paths.web_targets(bundle, path) == []


@pytest.mark.parametrize(
    "line",
    [
        "cd -LP /etc/kubernetes && cat admin.conf",
        "cd -P -L -- /etc/kubernetes && cat admin.conf",
        "cd -e /etc/kubernetes; cat admin.conf",
        "cd /etc/kubernetes; cd /tmp; cat ~-/admin.conf",
        "cd / ; cat ~+/etc/shadow",
        "pushd /etc/kubernetes; cat admin.conf",
        "pushd /etc/kubernetes; pushd /tmp; popd; cat admin.conf",
        "pushd -n /etc/kubernetes; popd; cat admin.conf",
        "case x in x) cd /etc/kubernetes;; esac; cat admin.conf",
        "builtin cd /etc/kubernetes; cat admin.conf",
        "command cd /etc/kubernetes; cat admin.conf",
        "cd $(cat where); cat x",
        "cd *; cat x",
        "cd -; cat x",
        "cd a b /etc/kubernetes; cat admin.conf",
    ],
)
def test_a_directory_is_followed_or_not_known(classifier: Classifier, line: str) -> None:
    assert classifier.classify("shell", {"command": line}).outcome != "release"


def test_leaving_and_coming_back_stays_in_the_workspace(classifier: Classifier) -> None:
    for line in ("(cd src && ls) && cat README.md", "cd src && cat app.py", "cd src; cd ..; cat README.md"):
        assert classifier.classify("shell", {"command": line}).risk is Risk.R0
    found = classifier.classify("shell", {"command": "cd src && echo x > out"}, GateProfile.CODING)
    assert found.covered


def test_a_directory_that_is_only_gone_to(bundle: Bundle) -> None:
    """`git -C ..`: what lies in it is judged where it is named."""
    found = paths.directory_targets(bundle, Word(".."), ["."])
    assert [(target.env, target.sensitivity) for target in found] == [(Env.PROD, Sensitivity.NORMAL)]

"""A file may be called `a -o pwned`: unquoted, that is three words, and the second one a flag."""

import pytest

from deployments.gate.classify import Classifier

SPLIT = [
    *(f"find . -exec sh -c '{command}' _ {{}} \\;" for command in ("sort $1", "rg foo $1", "git diff $1", "sort ${1}")),
    *(
        f"find . -type f -exec sh -c '{command}' _ {{}} \\;"
        for command in ("tar tf $1", "fd x $1", "sed -n 1p $1", "yq . $1", "jq . $1", "f=$1; sort $f")
    ),
    "find . -exec bash -c 'tree $1' _ {} \\;",
    "find . -exec sh -c 'git log $1' _ {} +",
    "find src -type f -exec bash -c 'sort $1' _ {} \\;",
    "find . -exec sh -c 'sort $0' {} \\;",
    "find . -name '*.txt' -exec sh -c 'for f in \"$@\"; do sort $f; done' _ {} +",
    "find . -execdir sh -c 'sort $1' _ {} \\;",
    "find . -type d -exec sh -c 'find $1 -name x' _ {} \\;",
]
QUOTED = [
    "find . -type f -exec sh -c 'head -n 1 \"$1\"' _ {} \\;",
    "find . -name '*.txt' -exec sh -c 'for f in \"$@\"; do wc -l \"$f\"; done' _ {} +",
]


@pytest.mark.parametrize("line", SPLIT)
def test_an_unquoted_name_is_held(classifier: Classifier, line: str) -> None:
    assert classifier.classify("shell", {"command": line}).outcome != "release"


@pytest.mark.parametrize("line", QUOTED)
def test_a_quoted_one_is_one_word(classifier: Classifier, line: str) -> None:
    assert classifier.classify("shell", {"command": line}).outcome == "release"

"""Disguises that no corpus has: globs in directories, elements of arrays, functions that a shell calls by itself."""

import pytest

from deployments.gate import feeds, globs, outputs
from deployments.gate.classify import Classifier
from deployments.gate.policy import Bundle
from deployments.gate.shell.atoms import Atom, Unprovable, Word
from deployments.gate.shell.reader import ShellReader
from deployments.gate.tables import Sensitivity
from tests.unit.gate.test_output_rules import PROGRAMS, last


@pytest.mark.parametrize(
    ("glob", "pattern", "aims"),
    [
        ("/r?ot/x", "/root/*", True),
        ("/roo[st]/x/y", "/root/*", True),
        ("/*/x", "/root/*", True),
        ("/r*/x", "/root/*", True),
        ("/root?/x", "/root/*", False),
        ("/etc/k?bernetes/x", "/etc/kubernetes/*", True),
        ("/e*/kubernetes/x", "/etc/kubernetes/*", True),
        ("/etc/*/x", "/etc/kubernetes/*", True),
        ("/etc/n*/x", "/etc/kubernetes/*", False),
        ("/e*/hosts", "/etc/kubernetes/*", False),
        ("/etc/kubernetes/x?", "/etc/kubernetes/*", False),
        ("./a/secr?ts/x", "*/secrets/*", True),
        ("./s*/x", "*/secrets/*", False),
        ("./*/x", "*/secrets/*", False),
        ("./.ss?/x", "*/.ssh/*", True),
        ("./?ssh/x", "*/.ssh/*", False),
        ("/r?ot/x", "/root*", False),
        ("/r?ot", "/root/*", False),
    ],
)
def test_a_glob_in_a_directory_is_made_for_all_that_lies_in_it(glob: str, pattern: str, aims: bool) -> None:
    assert globs.aims_at(glob, pattern) is aims


def disguises(pattern: str) -> list[str]:
    """Paths that a registered pattern covers, the plain one first, each of the others with a glob in a directory."""
    plain = pattern.replace("*/", "a/", 1) if pattern.startswith("*/") else pattern
    plain = f"{plain[:-1]}x" if plain.endswith("/*") else plain
    plain = plain.replace("*", "x")
    if any(char in plain for char in "?[]@ "):
        return []
    found = [plain]
    parts = plain.split("/")
    for place, part in enumerate(parts[:-1]):
        if len(part) > 2:
            made = [f"{part[0]}?{part[2:]}", f"{part[:-1]}?", f"{part[0]}*{part[-1]}", f"{part[:-1]}[!q]"]
            found += ["/".join([*parts[:place], each, *parts[place + 1 :]]) for each in made]
    return found


def test_no_glob_opens_a_sensitive_place(bundle: Bundle, classifier: Classifier) -> None:
    registered = bundle.targets["path"]
    patterns = [each for known, target in registered if target.sensitivity is Sensitivity.SENSITIVE for each in known]
    released: list[str] = []
    count = 0
    for plain, *others in filter(None, map(disguises, dict.fromkeys(patterns))):
        if classifier.classify("shell", {"command": f"cat {plain}"}).outcome == "release":
            continue  # a name that ends otherwise than the pattern's own may be none of its kind
        count += len(others)
        released += [each for each in others if _released(classifier, f"cat {each}")]
    assert released == []
    assert count > 200


def _released(classifier: Classifier, line: str) -> bool:
    return classifier.classify("shell", {"command": line}).outcome == "release"


@pytest.mark.parametrize(
    "line",
    [
        "command_not_found_handle() { rm -rf x; }; jq . a.json",
        "function command_not_found_handle { rm -rf x; }; ls",
        "command_not_found_handler() { ls; }; ls",
        "chpwd() { rm -rf x; }; cd a",
        "zshexit() { rm -rf x; }; ls",
    ],
)
def test_a_function_that_a_shell_calls_by_itself_is_held(classifier: Classifier, line: str) -> None:
    assert not _released(classifier, line)


@pytest.mark.parametrize(
    "line",
    ["git ls-files | sort - | head", "pgrep x | sort - | xargs -n1 ps -p", "x=$(sort -); ls $x", "echo $(cut -f1 -)"],
)
def test_a_lone_dash_is_an_operand(bundle: Bundle, classifier: Classifier, line: str) -> None:
    found = classifier.classify("shell", {"command": line})
    assert "classifier.error" not in found.rules
    read = feeds.read_flags(bundle.parts.programs, tuple(map(Word, ["sort", "-r", "-"])))
    assert read is not None
    assert ([word.text for word in read.operands], read.given) == (["-"], {"-r"})


@pytest.mark.parametrize(
    ("operands", "dashless"), [("a", True), ("'(' a", True), ("'('", False), ("a -b", None), ("", False)]
)
def test_a_listing_whose_operands_have_no_role_names_them_all(operands: str, dashless: bool | None) -> None:
    line = f"""bare {operands} | while read -r -d '' x; do at "$x"; done"""
    [word] = last(ShellReader(20.0), line)
    found = outputs.resolved(PROGRAMS, word)
    assert (found.kind, found.dashless) == (("", False) if dashless is None else ("path", dashless))


# Every element of an array is a word of its own, in quotes too, and what stands beside it belongs to the first or last.
ELEMENTS = """
a=(x -delete); find z"${a[@]}"
a=(x -delete); find "z${a[@]}"
a=(x -delete); find z"${a[@]%q}"
a=(x -delete); find "${a[@]:0}"
a=(x -delete); b=(z"${a[@]}"); find "${b[@]}"
a=(x -delete); for i in z"${a[@]}"; do find $i; done
a=(x --output=f); git log --grep=z"${a[@]}"
a=(x --output=f); git log --grep "z${a[@]}"
a=(x "BEGIN{system(1)}"); awk -v v="z${a[@]}" "{print}" f
a=(1 -o -v 'b[$(rm x)]'); [ -n "z${a[@]}" ]
f() { cat $@; }; f a .env
f() { cat $*; }; f a .env
f() { find $@; }; f x -delete
f() { find "z$@"; }; f x -delete
f() { find "$@"z; }; f -delete x
f() { find "${@:1}"; }; f x -delete
f() { find z"${@:1}"; }; f x -delete
f() { find z"${@%q}"; }; f x -delete
f() { git log --grep="z$@"; }; f x --output=f
f() { local b="$@"; cat $b; }; f a .env
f() { local b="$*"; sh -c "$b"; }; f ls '; rm x'
f() { sh -c "$*"; }; f ls '; rm x'
""".strip("\n").split("\n")


@pytest.mark.parametrize("line", ELEMENTS)
def test_the_elements_of_an_array_are_words_of_their_own(classifier: Classifier, line: str) -> None:
    assert not _released(classifier, line)


@pytest.mark.parametrize(
    "line",
    [
        'a=(a b); cat "${a[@]}"',
        'a=(a b); echo "all: ${a[@]} ${a[*]} ${#a[@]}"',
        'f() { cat "$@"; }; f a b',
        'f() { echo "got $# of: $@"; }; f a b',
        'echo "args: $@"',
    ],
)
def test_elements_that_are_harmless_flow(classifier: Classifier, line: str) -> None:
    assert _released(classifier, line)


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ('a=(x y); ls "${a[@]}"z', [(True, True)]),
        ('a=(x y); ls z"${a[@]}"', [(True, True)]),
        ('a=(x y); ls "z${a[@]}"', [(True, True)]),
        ('a=(x y); ls ${a[@]%x} "${a[@]%x}"', [(True, True), (True, True)]),
        ('a=(x y); ls "z${a[*]}" "z${a[0]}"', [(False, False), (False, False)]),
        ('f() { ls $@ "z$@" $* "$*"; }; f a b', [(True, True), (True, True), (True, True), (False, False)]),
    ],
)
def test_which_words_may_be_several(text: str, marks: list[tuple[bool, bool]]) -> None:
    words = ShellReader(20.0).read(text)[-1].argv[1:]
    assert [(word.loose, word.several) for word in words] == marks
    assert all(word.text is None for word in words if word.loose)


def test_no_argument_is_taken_for_all_of_them() -> None:
    [found] = ShellReader(20.0).read('f() { ls $@ "$*" ${#@} ${@:1} "${@%x}"; }; f a b')
    assert [word.text for word in found.argv] == ["ls", None, None, None, None, None]


# Flags of `read` come before its names; bash takes one behind a name for a name, and reads lines.
@pytest.mark.parametrize(
    "line",
    [
        """find . | { IFS= read -r f -d ''; sort "$f"; }""",
        """find . | while IFS= read -r f -d ''; do cat "$f"; done""",
        "read x -r; ls",
        "read x -s y; ls",
    ],
)
def test_flags_behind_a_name_are_no_flags(classifier: Classifier, line: str) -> None:
    with pytest.raises(Unprovable, match="read of something else than plain names"):
        ShellReader(20.0).read(line)
    assert not _released(classifier, line)


def test_flags_before_the_names_are() -> None:
    for flags, cut in [("-r -d ''", "record"), ("-d '' -r", "record"), ("-r", "line"), ("", "line"), ("-s -r", "line")]:
        [_, cat] = ShellReader(20.0).read(f'ls | while read {flags} x; do cat "$x"; done')
        [piece] = cat.argv[1].pieces
        assert not isinstance(piece, str)
        assert piece.cut == cut


def test_a_line_is_read_alone_and_together_as_the_same() -> None:
    """Also where another line moves its arguments."""
    lines = ["shift; ls $1", "ls $1", "sh -c 'cat \"$1\"' _ a", "f() { ls $1; }; f a"]
    together = ShellReader(20.0)
    together.learn(lines)
    assert len(together._remembered) == len(lines)
    read: list[tuple[Atom, ...]] = [ShellReader(20.0).read(line) for line in lines]
    assert [together.read(line) for line in lines] == read
    odd = ["s\\hift", "x=shi; command ${x}ft; ls"]
    together.learn(["shift", *odd])
    for line in odd:
        with pytest.raises(Unprovable, match="not written plainly"):
            together.read(line)


def test_quotes_are_no_part_of_a_pattern(classifier: Classifier) -> None:
    """`${x%".example"}` takes the ending off, as without quotes."""
    for line in QUOTED_PATTERNS:
        assert not _released(classifier, line), line
    for line in ('x=a.md; cat "${x%".md"}.txt"', "x=a.md; cat ${x%'.md'}.txt"):
        assert _released(classifier, line), line


QUOTED_PATTERNS = r"""
x=.env.example; cat ${x%".example"}
x=.env.example; cat ${x%'.example'}
x=.env.example; cat "${x%".example"}"
x=a/pubQ; cat ${x/"pubQ"/.env}
x=a.q.env; cat ${x#'a.q'}
""".strip("\n").split("\n")
# In double quotes single quotes are letters in `${x:-...}`, and what is in them is expanded; both parsers miss that.
QUOTED_TWICE = r"""
x=; echo "${x:-'$(rm -rf y)'}"
x=; echo "${x:-'`rm -rf y`'}"
x=; echo "${x-'$(rm -rf y)'}"
echo "${x:-'$(rm -rf y)'}"
x=5; echo "$((${x:-'$(rm -rf y)'}))"
x=; y=/etc/shadow; cat "${x:-'$y'}"
x=a; echo "${x/a/'$(rm -rf y)'}"
x=a; echo "${x%'$(rm -rf y)'}"
x=; sh -c "${x:-echo \\\; rm y}"
x=; bash -c "${x:-echo \\\; rm y}"
x=; echo "${x:-$'$(rm -rf y)'}"
x=; y="${x:-'$(rm -rf y)'}"; ls
x=; ls > "${x:-'$(rm -rf y)'}"
""".strip("\n").split("\n")


@pytest.mark.parametrize("line", QUOTED_TWICE)
def test_quotes_in_an_expansion_in_quotes_are_held(classifier: Classifier, line: str) -> None:
    assert not _released(classifier, line)


# The letters of a home are not those of `~`.
@pytest.mark.parametrize(
    "line",
    [
        "x=~/pub/a; cat ${x%%/*}/etc/shadow",
        "x=~/etc/shadow; cat ${x:5}",
        "x=$HOME/etc/shadow; cat ${x:5}",
        "x=~; cat ${x/root/etc/shadow}",
        "x=a:~/b; cat ${x#a:/*/b}",
    ],
)
def test_nothing_is_cut_off_a_home(classifier: Classifier, line: str) -> None:
    assert not _released(classifier, line)


# Each runs or writes something where `sh` is dash.
NOT_BASH = r"""
sh -c '[[ a || reboot ]]'
dash -c '[[ a || reboot ]]'
/bin/sh -c '[[ a || reboot ]]'
env sh -c '[[ a || reboot ]]'
watch '[[ a || reboot ]]'
find . -exec sh -c '[[ a || reboot ]]' \;
sh -c '[[ x > important.txt ]]'
sh -c 'a=5; ((a > 3))'
sh -c 'reboot=1; ((reboot))'
sh -c 'for ((i=0;i<3;i++)); do ls; done'
sh -c 'function f {⏎rm -rf x⏎}⏎ls'
sh -c 'echo $'"'"'\'"'"'⏎rm -rf x⏎'"'"
sh -c 'x=.env; x+=.example; cat $x'
sh -c 'x=.env; ls &>/dev/null; cat a{b,c}'
sh -c 'cat $RANDOM a'
sh -c 'cat ~+/a'
sh -c 'x=--pre=./e; pgrep y | { read -s x; rg foo $x; }'
sh -c 'export LANG=$x; ls'
sh -c 'a=(x); ls'
sh -c 'cat <(ls)'
sh -c 'ls 10>/dev/null'
""".strip("\n").split("\n")


@pytest.mark.parametrize("line", NOT_BASH)
def test_what_another_shell_reads_otherwise_is_held(classifier: Classifier, line: str) -> None:
    assert not _released(classifier, line.replace("⏎", "\n"))


@pytest.mark.parametrize(
    "line",
    [
        "bash -c '[[ a || reboot ]]'",
        "bash -lc 'function f { ls; }; f; ls {a,b}'",
        """sh -c 'ls "$1"; for f in *.py; do wc -l "$f"; done 2>/dev/null | head' _ src""",
        "sh -c 'command -v git >/dev/null 2>&1 && git status'",
        """sh -c 'x=a; echo "${x:-b}" $? $# "{a,b}" $((1 + 2)); f() { ls; }; f; export LANG=C LC_ALL="$x"'""",
        "sh -c 'read -r x < f; echo \"$x\"'",
    ],
)
def test_what_every_shell_reads_alike_flows(classifier: Classifier, line: str) -> None:
    assert _released(classifier, line)


# `3< f` is no standard input: who reads that still reads the pipe.
@pytest.mark.parametrize(
    "line",
    [
        'git log --format=%s | while read -r p; do rg foo "$p" .; done 3< <(pgrep x)',
        "git log --format=%s | while read -r p; do rg foo $p .; done 3< <(pgrep x)",
        "git log --format=%s | { read -r p 3< <(pgrep x); rg foo $p; }",
        "psql 3<<<'select 1'",
        "cat drop.sql | psql 3< read.sql",
    ],
)
def test_an_input_that_is_not_standard_input_is_held(classifier: Classifier, line: str) -> None:
    assert not _released(classifier, line)


# To `find` the flags go on; to `tar tf` it is the name of the archive.
@pytest.mark.parametrize(
    "line",
    [
        "find -- . -delete",
        "find -- -delete",
        "find . -- -delete",
        "find -- . -exec rm {} +",
        "tar tf -- a.tar --use-compress-program=./x",
        "tar tf -- a.tar -I ./x",
        "tar tvf -- -I./x",
    ],
)
def test_two_dashes_do_not_end_all_flags(classifier: Classifier, line: str) -> None:
    assert not _released(classifier, line)


@pytest.mark.parametrize("line", ["grep -rn -- -x .", "find -- .", "tar tf a.tar -- -x", "tar -tf a.tar -- -x"])
def test_two_dashes_end_those_of_others(classifier: Classifier, line: str) -> None:
    assert _released(classifier, line)


# As many words as the last flag says, cut where it says; a placeholder before a count may be taken back.
@pytest.mark.parametrize(
    "line",
    [
        "echo --pre=./x | xargs -I% -n1 rg foo",
        "echo --pre=./x | xargs -I% -n 2 rg foo",
        "echo --pre=./x | xargs -I% -L1 rg foo",
        "echo --pre=./x | xargs -I% --max-args=2 rg foo",
        "pgrep x | xargs -n1 -n5 uniq",
        "pgrep x | xargs uniq -n 1",
        "pgrep x | xargs xxd -n 1",
        "git ls-files | xargs -L1 uniq",
        "kubectl get pods -o name | xargs -da -n1 kubectl logs",
        "kubectl get pods -o name | xargs -d o -n1 kubectl logs",
        "kubectl get pods -o name | xargs --delimiter=o -n1 kubectl logs",
        "kubectl get pods -o name | xargs -do -I% kubectl logs %",
    ],
)
def test_what_xargs_hands_on(classifier: Classifier, line: str) -> None:
    assert not _released(classifier, line)


@pytest.mark.parametrize(
    "line",
    [
        "pgrep x | xargs -n1 uniq",
        "pgrep x | xargs -L1 ps -p",
        "pgrep x | xargs -n5 -n1 ps -p",
        "seq 3 | xargs -n1 -I% echo item %",
        "kubectl get pods -o name | xargs -n1 kubectl logs",
        "kubectl get pods -o name | xargs -d '\\n' -n1 kubectl logs",
        "kubectl get pods -o name | xargs -d '\\n' -I% kubectl logs %",
    ],
)
def test_what_xargs_hands_on_plainly_flows(classifier: Classifier, line: str) -> None:
    assert _released(classifier, line)


# The second time around the loop the name holds what was read.
@pytest.mark.parametrize("name", ['"x"', "\\x", 'x""', '"$y"', "${y}", "{x,z}"])
@pytest.mark.parametrize("setter", ["read -r", "mapfile -t", "unset"])
def test_a_name_that_is_set_is_written_plainly(classifier: Classifier, setter: str, name: str) -> None:
    assert not _released(classifier, f'x=a; y=x; while true; do cat "$x/b"; {setter} {name}; done < list')


@pytest.mark.parametrize(
    "line",
    [
        "x=$(pgrep y); : ${x:=--pre=./e}; rg foo $x",
        "x=$(pgrep y); echo ${x=--pre=./e}; rg foo $x",
        "x=$(date +%s); : ${x:=.env}; cat $x",
        "x=*; : ${x:=.env}; cat $x",
    ],
)
def test_a_value_that_may_be_empty_is_not_filled_in(classifier: Classifier, line: str) -> None:
    assert not _released(classifier, line)

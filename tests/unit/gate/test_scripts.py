"""sed, awk and jq: what only reads and prints passes, everything else does not."""

import pytest

from deployments.gate.scripts import READERS, awk_reads, jq_reads, sed_reads

SED_READS = [
    "p",
    "1,40p",
    "$p",
    "/a/,/b/p",
    "s/a/b/",
    "s/a/b/g;s/c/d/",
    "s|/usr|/opt|g",
    "/^#/d",
    "/^$/d",
    "1d",
    "$!N;$!D",
    ":a;N;$!ba;s/\\n/ /g",
    "s/[[:space:]]*$//",
    "s/[^a]*$//",
    "y/abc/ABC/",
    "5q",
    "1~2p",
    "0~3d",
    "/foo/!d",
    "/x/{s/a/b/;p}",
    "2,5!d",
    "/start/,/end/{/end/!p;}",
    "=",
    "1i\\hello",
    "$a bye",
    "s/x/y/2",
    "n;d",
    "/a/I p",
    "1,3{p;p}",
    "s#a#b#gI",
    "/x/{n;p;q}",
    "s/\\(a\\)b/\\1/p",
    "10,+5p",
    "s/^[ \t]*//;s/[ \t]*$//",
    "/a/b end;s/x/y/;:end",
    "s/a/b/ ; s/c/d/",
    "l",
    "G",
]
SED_MORE = [
    "e",
    "1e id",
    "s/a/b/e",
    "s/a/b/w f",
    "w /tmp/x",
    "r /etc/shadow",
    "R f",
    "W x",
    "s/a/id/ge",
    "1,3w f",
    "s/[/]/x/w f/",
    "/x/e",
    "{e}",
    "p;e",
    "s/a/b/;w f",
    "p\ne id",
    "s/x/y/gw out",
    "y/a/b/;e id",
    "a foo\nw x",
    "a foo\\\nbar\ne id",
    "s/a/b\\",
    "/a/,/b/w x",
    "1!e",
    "\\%a%e",
    "s/a\\/b/c/e",
    "#n\ne id",
    "# x\ne",
    "s,a,b,e",
    "b end;e",
    "s/a/b/pe",
    "s/a/b/m e",
    "v;e",
    "Fe",
    "=e",
    "}e",
    "s/a/b/}e",
    "b;e id",
    "1,2{p;e id\n}",
    "s;a;b;e",
    "a\\\nfoo\\\ne",
    "/[/]/e id/p",
    "/[/]e id;/p",
    "s/[]/]/e/",
    "i\\\\\ne id",
]

AWK_READS = [
    "{print $1}",
    "{print $1, $2}",
    "{ print }",
    "NR==1",
    "$3 > 100",
    "$3>100 {print $1}",
    "{s+=$1} END {print s}",
    'BEGIN{FS=":"} {print $1}',
    "/foo/",
    "!/foo/",
    "/a/,/b/",
    "{ if ($3 > 5) print $1; else print $2 }",
    '{printf "%s %d\\n", $1, $2}',
    "END{print NR}",
    "{a[$1]++} END{for(k in a) print k, a[k]}",
    "$1 ~ /^a/ && $2 !~ /b/",
    "NR>1",
    "NR>1{print $2}",
    "{print length($0)}",
    "{print substr($0,1,10)}",
    '{gsub(/a/,"b"); print}',
    "!seen[$0]++",
    "{print $NF}",
    "{print $(NF-1)}",
    "{ sum += $5 } END { print sum/NR }",
    '{print $1/1024 " MB"}',
    "{print (a > b)}",
    '{print ($1 > 5 ? "x" : "y")}',
    'BEGIN{OFS="\\t"}{$1=$1}1',
    "1",
    '{print > "/dev/stderr"}',
    "/[[:space:]]x/{print}",
    "{x=$1; if(x>m)m=x} END{print m}",
    '$2 == "Running" {c++} END {print c+0}',
    "NR%2==0",
    '{$1=""; print substr($0,2)}',
    "{for(i=1;i<=NF;i++) if ($i > 3) print $i}",
    'BEGIN { printf "%.2f\\n", 10/3 }',
]
AWK_MORE = [
    'BEGIN{system("id")}',
    '{print | "sh"}',
    '{print > "f"}',
    "{print $1 > $2}",
    '{"id" | getline x}',
    '{getline < "/etc/shadow"}',
    '{print $1 >> "f"}',
    'BEGIN{while((getline l < "f")>0)print l}',
    'BEGIN{print ENVIRON["X"]}',
    '@load "x"',
    "@f(x)",
    'BEGIN{ARGV[1]="/etc/shadow"}',
    '{printf "x" > "f"}',
    '{print(1) > "f"}',
    '{print (1)(2) > "f"}',
    '/"/ { system("id") } /"/',
    '{x = 1 / system("id") / 1}',
    '{x = y / system("id") / 1}',
    '{x[1] / system("id") /1}',
    'BEGIN { f = "system"; @f("id") }',
    '{print|"sh"}',
    '{print $1 |& "sh"}',
    '{ print \\\n > "f"}',
    '{if(1)print>"x"}',
    '{print;print >"x"}',
    '{a=/x/;print >"f"}',
    '# "\n{system("id")}\n#"',
    'function f(){system("id")} {f()}',
    'BEGIN{close("x")}',
    '{print a[1>2] > "f"}',
    '{print $1 ,\n $2 > "f"}',
    "{print > f}",
    '/[/]/{system("x")}/]/',
    'a /b[/]system("id")/',
    '{print a++ /b/ system("x") }',
    '{print >"/dev/stderr" "x"}',
    '{print a ?\n b : c > "f"}',
    '{print a +\n b > "f"}',
]

JQ_READS = [
    ".",
    ".a.b",
    ".items[].name",
    '.items[] | select(.status=="x") | .name',
    "keys",
    "length",
    "map(.a)",
    "[.[] | {a:.b, c: .d}]",
    'to_entries[] | "\\(.key)=\\(.value)"',
    '.a // "none"',
    "sort_by(.x) | reverse | .[0:5]",
    "group_by(.a) | map({k: .[0].a, n: length})",
    '.["a b"]',
    ".a?",
    "if .a then .b else .c end",
    "reduce .[] as $x (0; . + $x)",
    "[.[].size] | add",
    "@csv",
    "[.a,.b] | @tsv",
    ".. | .name? // empty",
    "{env: .x}",
    ".env",
    '"\\(.a) \\(.b | tostring)"',
    'test("foo(bar)?")',
    ".b",
    "with_entries(select(.value > 3))",
    "first(.[])",
    ".a as $x | $x",
    '.metadata.labels["app.kubernetes.io/name"]',
    "input",
    "def f: .a; f",
    "def f(x; $y): x + $y; map(f(.; 1))",
    "def f: def g: .b; g; [f]",
    "{def: 1}",
]
JQ_MORE = [
    "env",
    "$ENV",
    "env.HOME",
    "$ENV.PATH",
    '"\\(env)"',
    '"\\(.a | env)"',
    'import "a" as b; .',
    'include "x"; .',
    '"\\("\\(env)")"',
    "modulemeta",
    "get_search_list",
    "env|keys",
    ".a, env",
    '"a\\(1)\\(env)b"',
    "$__prog_args",
    "b::f",
    '.a | system("x")',
    'load("f")',
    "[env]",
    '@sh "\\(env)"',
    "def f: env; f",
    "def env: 1; env",
    "(def env: 1; env) | env",
    "def f(env): 1; env",
    "def f($ENV): f",
    "def f(x; env): 1; f",
    "{a: def env: 1; env}",
    "def input_filename: 1; input_filename",
    "def f",
    "def",
    "def f(a",
    "def f(a, b): 1; f",
    "def f(a);: 1; f",
    "def $f: 1; 1",
    "def def: 1; 1",
    '"def foo: 1;" | foo',
    "def f: g; f",
    "$ENV|.x",
    '"x',
]


@pytest.mark.parametrize("program", SED_READS)
def test_sed_that_only_reads_passes(program: str) -> None:
    assert sed_reads(program)


@pytest.mark.parametrize("program", SED_MORE)
def test_sed_that_may_do_more_does_not(program: str) -> None:
    assert not sed_reads(program)


@pytest.mark.parametrize("program", AWK_READS)
def test_awk_that_only_reads_passes(program: str) -> None:
    assert awk_reads(program)


@pytest.mark.parametrize("program", AWK_MORE)
def test_awk_that_may_do_more_does_not(program: str) -> None:
    assert not awk_reads(program)


@pytest.mark.parametrize("program", JQ_READS)
def test_jq_that_only_reads_passes(program: str) -> None:
    assert jq_reads(program)


@pytest.mark.parametrize("program", JQ_MORE)
def test_jq_that_may_do_more_does_not(program: str) -> None:
    assert not jq_reads(program)


@pytest.mark.parametrize("reader", READERS.values())
@pytest.mark.parametrize("text", ["", "\x00", "\\", '"', "[" * 2_000, "(" * 2_000, "{" * 2_000, "s/" + "a" * 5_000])
def test_no_text_is_too_odd_for_an_answer(reader: object, text: str) -> None:
    assert callable(reader)
    assert reader(text) in (True, False)

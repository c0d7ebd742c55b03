"""What the second reader sees in a text by itself, whatever the first one makes of it; and when the two agree."""

import re

import pytest

from deployments.gate.shell.agree import check_agreement, second_opinion
from deployments.gate.shell.atoms import Shape, Unprovable

PLAIN = re.compile(r"[A-Za-z0-9_./:=@%+,~*\[\]{}$#^!<>|;&()?-]+")

# A text (`\u23ce`: a newline), then its commands as the two readers compare them (`\u00a4`: an expansion follows, as
# it is written), or after `!!` why there are none.
SEEN = r"""
ls
  -> ls
ls -l 'a b' "c" d\ e $'\x41'
  -> ls -l 'a b' c 'd e' A
x=1
  -> , sets x=1
x=1 y=2
  -> , sets x=1 y=2
x=1 ls
  -> ls, sets x=1
x+=1
  -> , sets x=¤+1
x+=1 ls
  -> ls, sets x=¤+1
x=(a 'b c' $d)
  -> , sets 'x=¤(a b c ¤$d'
x+=(a)
  -> , sets x=¤+¤(a
x=() ls
  -> ls, sets x=¤(
x[1]=a
  !! the second parser meets an unusual assignment
x[1]=a ls
  !! the second parser meets an unusual assignment
export x=1
  -> export, sets x=1
export x=1 y
  !! the second parser meets an unusual assignment
export x
  !! the second parser meets an unusual assignment
readonly x=1
  -> readonly, sets x=1
local x
  -> local, sets x
local x=1 y
  -> local, sets x=1 y
declare x=1
  !! the second parser meets a declaration
declare -F
  -> declare -F
typeset -f a
  -> typeset -f a
declare -F "a"
  !! the second parser meets a declaration
declare $x
  !! the second parser meets a declaration
declare -x a=1
  !! the second parser meets a declaration
export -n x
  !! the second parser meets an unusual assignment
unset x y
  -> unset x y
unset -v x
  -> unset x
unset -f x
  -> unset -f x
unset y x
  -> unset x y
((1 + 2))
  -> (( 1+2
((x++))
  -> (( x++
(( $(ls) ))
  -> (( $(ls)
((a[1]))
  -> (( a[1]
((a[$(ls)]))
  !! the second parser meets an unusual expansion
((a[x+1]))
  -> (( a[x+1]
((<(ls)))
  !! the second parser finds a syntax error
for ((i=0; i<3; i++)); do ls; done
  -> for(( i=0;i<3;i++
  -> ls
for ((i=$(a); i<3; i++)) { ls; }
  -> a
  -> for(( i=$(a);i<3;i++
  -> ls
for ((;;)); do ls; done
  -> for(( ;;
  -> ls
for ((i=0;i<`ls`;i++)); do cat; done
  -> cat
  -> for(( 'i=0;i<`ls`;i++'
  -> ls
f() { ls; }
  -> function f
  -> ls
function f { ls; }
  -> function f
  -> ls
f() { ls; } > x
  !! the second parser meets an unusual function
f() ( ls )
  -> function f
  -> ls
for i in a "b" $c; do ls; done
  -> for i a b ¤$c
  -> ls
for i; do ls; done
  -> for i
  -> ls
for i in a; do ls $i; done > f
  -> , to > f
  -> for i a
  -> ls ¤$i
select i in a; do ls; done
  -> for i a
  -> ls
if a; then b; elif c; then d; else e; fi
  -> a
  -> b
  -> c
  -> d
  -> e
while a; do b; done
  -> a
  -> b
until a; do b; done
  -> a
  -> b
{ a; b; }
  -> a
  -> b
( a; b )
  -> a
  -> b
! a
  -> a
! a | b
  -> a
  -> b
a | b
  -> a
  -> b
a |& b
  -> a
  -> b
a && b || c
  -> a
  -> b
  -> c
a & b
  -> a
  -> b
case a in b) c;; d|'e') f; g;; esac
  -> c
  -> case a b d "'e'"
  -> f
  -> g
case "$x" in *) a;; esac
  -> a
  -> case ¤$x *
case a in b) ;; esac
  -> case a b
case $(a) in b) c;; esac
  -> a
  -> c
  -> case ¤$( b
case a in b) c;; esac > f
  -> , to > f
  -> c
  -> case a b
[ a = b ]
  -> [ a = b ]
[ -n "$x" ]
  -> [ -n ¤$x ]
[ a = b ] > f
  -> [ a = b ], to > f
[[ -n $x && a == b* ]]
  -> [[ -n $x && a == b* ]]
[[ a =~ ^b.*$ ]]
  -> [[ a =~ ^b.*$ ]]
[[ ! ( a = b ) ]]
  -> [[ ! ( a = b ) ]]
[[ $(ls) ]]
  -> [[ $(ls) ]]
  -> ls
[ $(ls) ]
  -> [ ¤$( ]
  -> ls
[[ -n a ]] > f
  -> [[ -n a ]], to > f
test a = b
  -> test a = b
[[ a == @(b|c) ]]
  -> [[ a == @(b|c) ]]
[[ <(ls) ]]
  -> [[ <(ls) ]]
  -> ls
ls > a 2>&1 < b
  -> ls, to < b > a >& 1
> a
  -> , to > a
> a < b
  -> , to < b > a
{ a; } > b
  -> , to > b
  -> a
( a ) > b
  -> , to > b
  -> a
a | b > c
  -> a
  -> b, to > c
a && b > c
  -> a
  -> b, to > c
a; b > c
  -> a
  -> b, to > c
! a > b
  -> a, to > b
! [ a ] > b
  -> [ a ], to > b
a | [ b ] > c
  -> [ b ], to > c
  -> a
a && ! b > c
  -> a
  -> b, to > c
a && { b; } > c
  -> , to > c
  -> a
  -> b
a | ( b ) > c
  -> , to > c
  -> a
  -> b
a && b && c > d
  -> a
  -> b
  -> c, to > d
a > b > c
  -> a, to > b > c
if a; then b; fi > c
  -> , to > c
  -> a
  -> b
a > b | c
  -> a, to > b
  -> c
while a; do b; done < c
  -> , to < c
  -> a
  -> b
a > $(b)
  -> a, to > ¤$(
  -> b
a > "$x"
  -> a, to > ¤$x
a 2> b
  -> a, to > b
a &> b
  -> a, to &> b
a >| b
  -> a, to >| b
a <> b
  !! the second parser finds a syntax error
a <& 3
  -> a, to <& 3
a {fd}> b
  -> a {fd}, to > b
a > b c
  !! two parsers read the command differently
> b a c
  -> a c, to > b
a <<E⏎x⏎E
  -> a, to << ''
a <<'E'⏎$x⏎E
  -> a, to << ''
a <<E⏎$x⏎E
  !! an expansion in a here-document
a <<E⏎`x`⏎E
  -> a, to << ''
a <<E > b⏎x⏎E
  -> a, to << '' > b
a <<E | c⏎x⏎E
  -> a, to << ''
  -> c
a <<E && c⏎x⏎E
  -> a, to << ''
  -> c
a <<E || c⏎x⏎E
  -> a, to << ''
  -> c
a <<E; c⏎x⏎E
  !! the second parser finds a syntax error
a <<-E⏎	x⏎	E
  -> a, to <<- ''
a 3<<E⏎x⏎E
  -> a, to << ''
a - <<E⏎x⏎E
  -> a -, to << ''
a -  <<E⏎x⏎E
  -> a -, to << ''
a -x <<E⏎x⏎E
  -> a -x, to << ''
a - - <<E⏎x⏎E
  -> a - -, to << ''
a -<<E⏎x⏎E
  -> a, to << ''
a b - > f <<E⏎x⏎E
  -> a b -, to << '' > f
a && b - <<E⏎x⏎E
  -> a
  -> b -, to << ''
a <<E b⏎x⏎E
  !! the second parser meets an unusual here-document
a <<E - b⏎x⏎E
  !! the second parser meets an unusual here-document
{ a; } <<E⏎x⏎E
  -> , to << ''
  -> a
a | b <<E⏎x⏎E
  -> a
  -> b, to << ''
a <<E <<F⏎x⏎E⏎y⏎F
  !! the second parser finds a syntax error
a <<E | b | c⏎x⏎E
  -> a, to << ''
  -> b
  -> c
a <<E | { b; }⏎x⏎E
  -> a, to << ''
  -> b
a <<E | (b)⏎x⏎E
  -> a, to << ''
  -> b
a <<E | b > c⏎x⏎E
  -> a, to << ''
  -> b, to > c
a <<< b
  -> a, to <<< ''
a <<< $(b)
  -> a, to <<< ''
  -> b
a <<< "$(b)" c
  -> a c, to <<< ''
  -> b
a <<< x$(b)
  -> a, to <<< ''
  -> b
time a
  -> a
time -p a
  -> a
time -p
  ->
time
  ->
time (a)
  -> a
time -p (a)
  !! the second parser finds a syntax error
time { a; }
  -> { a
  -> }
time -v a
  -> -v a
x=1 time a
  -> a, sets x=1
time (a) > b
  !! the second parser meets subshell
a $x "$y" ${z} ${z:-d} $((1+2)) "$((x))"
  -> a ¤$x ¤$y ¤${z} ¤${z:-d} ¤$((1+2)) ¤$((x))
a ${x:-$(b)}
  !! the second parser meets an unusual expansion
a ${x[1]}
  -> a ¤${x[1]}
a ${x[@]}
  -> a ¤${x[@]}
a ${x[$y]}
  !! the second parser meets an unusual expansion
a ${x[$(b)]}
  !! the second parser meets an unusual expansion
a "${x[y]}"
  -> a ¤${x[y]}
a ${x:-<(b)}
  -> a ¤${x:-<(b)}
a "${x:-"$(b)"}"
  !! the second parser meets an unusual expansion
a ${x/$(b)/}
  !! the second parser meets an unusual expansion
a $(( $(b) + 1 ))
  -> a '¤$(( $(b) + 1 ))'
  -> b
a $(( ${x[1]} ))
  -> a '¤$(( ${x[1]} ))'
a $(( x[$(b)] ))
  !! the second parser meets an unusual expansion
a ${x:-`b`}
  -> a '¤${x:-`b`}'
a "b $x c" "$x" "$(b) c" "a\"$x\$" "" "  $x" "$x  "
  -> a 'b ¤$x c' ¤$x '¤$( c' 'a"¤$x$' '' '  ¤$x' '¤$x  '
  -> b
a "$(b)"c'd'$x
  -> a ¤$(cd¤$x
  -> b
a "`b`"
  -> a ¤$(
  -> b
a "é$xé"
  -> a 'é¤$xé'
a {b,c} {1..3} x{a,b}
  -> a ¤{{b,c} ¤{{1..3} ¤{x{a,b}
a "{b,c}" '{b,c}' \{b,c\}
  -> a {b,c} {b,c} {b,c}
a {b,'c'}
  !! a brace expansion
a b{c,$x}
  !! a brace expansion
a {b
  -> a {b
a {b,c
  !! a brace expansion
a {}
  -> a {}
a b{1,2}'c'
  !! a brace expansion
a x{'y',z}
  !! a brace expansion
a b\⏎c
  -> a b c
a \$x
  -> a $x
a b\
  !! the second parser finds a syntax error
a #c
  -> a
# c
a;
  -> a
a⏎⏎b
  -> a
  -> b
a $'\n' $'\q'
  !! an unusual escape in $'...'
a $"x"
  !! the second parser meets an unusual word
a $'\x80'
  !! a character beyond ASCII in $'...'
a <(b) >(c)
  -> a ¤<( ¤<(
  -> b
  -> c
a x<(b)
  -> a x ¤<(
  -> b
a <(b; c)
  -> a ¤<(
  -> b
  -> c
a $(b; c) `d`
  -> a ¤$( ¤$(
  -> b
  -> c
  -> d
$(a) b
  -> ¤$( b
  -> a
"$x" a
  -> ¤$x a
$x
  -> ¤$x
"a"b c
  -> ab c
a$x b
  -> a¤$x b
${x}y
  -> ¤${x}y
`a`
  -> ¤$(
  -> a
<(a)
  -> ¤<(
  -> a
$((1))
  -> ¤$((1))
{a,b} c
  !! the second parser finds a syntax error
a 'b
  !! the second parser finds a syntax error
a )
  !! the second parser finds a syntax error
a &&
  !! the second parser finds a syntax error
if a
  !! the second parser finds a syntax error
a | | b
  !! the second parser finds a syntax error
${
  !! the second parser finds a syntax error
coproc a
  -> coproc a
a=b=c
  -> , sets a=b=c
a=$(b)
  -> , sets a=¤$(
  -> b
a=$(b) c
  -> b
  -> c, sets a=¤$(
a="$(b)"
  -> , sets a=¤$(
  -> b
a=`b`
  -> , sets a=¤$(
  -> b
a=x$(b)y
  -> , sets a=x¤$(y
  -> b
a=<(b)
  -> , sets a=¤<(
  -> b
a=$((b))
  -> , sets a=¤$((b))
a=*
  -> , sets a=*
a=~/b
  -> , sets a=~/b
a=
  -> , sets a=
a= b
  -> b, sets a=
a='b c'd
  -> , sets 'a=b cd'
let x=1
  -> let x=1
let "x=1"
  -> let x=1
a 1 2>3
  -> a 1, to > 3
a ==b
  -> a ==b
a ~ ~b
  -> a ~ ~b
a *.py ?x [a-z]
  -> a *.py ?x [a-z]
a !x
  -> a !x
a b!
  -> a b!
a %1
  -> a %1
a @b
  -> a @b
a -- -x
  -> a -- -x
a,b
  -> a,b
a:b
  -> a:b
. a
  -> . a
: ${x:=y}
  -> : ¤${x:=y}
[ a ] && b
  -> [ a ]
  -> b
a [ b ]
  -> a [ b ]
a ]
  -> a ]
a ^b
  -> a ^b
a "$@" $* $# $$ $? $! $- $0 $_
  -> a ¤$@ ¤$* ¤$# ¤$$ ¤$? ¤$! ¤$- ¤$0 ¤$_
a ${#x} ${!x} ${x@Q} ${x^^} ${x%y} ${x//a/b} ${x:1:2}
  -> a ¤${#x} ¤${!x} ¤${x@Q} ¤${x^^} ¤${x%y} ¤${x//a/b} ¤${x:1:2}
a $[1+2]
  -> a ¤$[1+2]
f () { a; }; f
  -> a
  -> f
  -> function f
a &
  -> a
a 1<&2
  -> a, to <& 2
a "${x}""${y}"
  -> a ¤${x}¤${y}
a ''""b
  -> a b
$(<a)
  !! the second parser meets file_redirect
a "$(<b)"
  !! the second parser meets file_redirect
a ${x['a']}
  !! the second parser meets an unusual expansion
a ${x["a"]}
  !! the second parser meets an unusual expansion
a ${x[-1]}
  !! the second parser meets an unusual expansion
a ${x[0]}
  -> a ¤${x[0]}
local x='a b'
  -> local, sets 'x=a b'
readonly x='a b'
  -> readonly, sets 'x=a b'
a $"x"y
  !! the second parser meets an unusual word
a > f - <<E⏎x⏎E
  -> a, to << '' > f
a - > f <<E⏎x⏎E
  -> a -, to << '' > f
f() [[ a ]]
  -> [[ a ]]
  -> function f
f() if a; then b; fi
  -> a
  -> b
  -> function f
( a ) | b {1..1000}.txt
  !! the second parser meets brace_expression
a {1..1000}.txt
  !! the second parser meets brace_expression
coproc (a)
  !! the second parser meets subshell
a | b c$
  !! the second parser meets $
export -p
  !! the second parser meets an unusual assignment
a >& b 0>&1
  !! two parsers read the command differently
((a ? b : c))
  -> (( a?b:c
a "$(b <<E⏎x⏎E⏎)"
  -> a ¤$(
  -> b, to << ''
case a in !(b)) c;; esac
  -> c
  -> case a !(b)
a b$'c'd
  -> a bcd
a 10#$x
  !! the second parser finds a syntax error
"""


def part(text: str) -> str:
    marked = text.replace("\0", "\u00a4")
    return marked if PLAIN.fullmatch(text.replace("\0", "")) else repr(marked)


def shown(shape: Shape) -> str:
    words, names, redirects = shape
    said = [" ".join(map(part, words))]
    said += ["sets " + " ".join(map(part, names))] if names else []
    said += ["to " + " ".join(f"{operator} {part(target)}" for operator, target in redirects)] if redirects else []
    return ", ".join(said)


def seen(text: str) -> list[str]:
    try:
        return [f"-> {shown(shape)}".rstrip() for shape in second_opinion(text)]
    except Unprovable as error:
        return [f"!! {error}"]


def table(said: str) -> list[tuple[str, list[str]]]:
    rows: list[tuple[str, list[str]]] = []
    for line in filter(None, said.split("\n")):
        if line.startswith("  ") and line[2:4] in {"->", "!!"}:
            rows[-1][1].append(line[2:])
        else:
            rows.append((line.replace("\u23ce", "\n"), []))
    return rows


@pytest.mark.parametrize(("text", "found"), table(SEEN))
def test_what_the_second_reader_sees(text: str, found: list[str]) -> None:
    assert seen(text) == found


@pytest.mark.parametrize("text", ["( " * 2_000 + "a" + " )" * 2_000, "a " + "$(a " * 2_000 + ")" * 2_000])
def test_what_is_nested_too_deeply_is_held(text: str) -> None:
    with pytest.raises(Unprovable, match="nested too deeply|syntax error"):
        second_opinion(text)


LIST: list[Shape] = [(("ls", "a"), (), ()), (("cat",), ("x=1",), ((">", "f"),))]


@pytest.mark.parametrize(
    "shapes",
    [
        [LIST[0]],
        [*LIST, LIST[0]],
        [],
        [LIST[0], (("cat",), ("x=2",), ((">", "f"),))],
        [LIST[0], (("cat",), ("x=1",), ((">>", "f"),))],
        [LIST[0], (("cat",), ("x=1",), ())],
        [LIST[0], (("cat", ""), ("x=1",), ((">", "f"),))],
        [(("ls", "\0a"), (), ()), LIST[1]],
    ],
)
def test_any_difference_holds(shapes: list[Shape]) -> None:
    text = "ls a; x=1 cat > f"
    check_agreement(text, LIST)
    check_agreement(text, LIST[::-1])
    with pytest.raises(Unprovable, match="two parsers read the command differently"):
        check_agreement(text, shapes)

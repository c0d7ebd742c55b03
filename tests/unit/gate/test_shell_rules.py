"""What is read in a text, word for word: values, their marks, where they come from, or why it cannot be read."""

import re

import pytest

from deployments.gate.shell.atoms import Atom, Cut, Source, Unprovable, Word
from deployments.gate.shell.reader import ShellReader
from deployments.gate.shell.reduce import reduce
from deployments.gate.shell.tree import Node

PLAIN = re.compile(r"[A-Za-z0-9_./:=@%+,~*\[\]{}$#^!-]+")

# A text (`\u23ce`: a newline), then the commands in it, or after `!!` why it is held. A word that is not known is `?`
# and its pieces; a source is the type of what the shell makes, or the weight and the command whose output it is. Behind
# each word what is known besides its text; before a command the subshells that it runs in.
WORDS = r"""
ls -l 'a b' "c d" e\ f
  -> ls -l 'a b' 'c d' 'e f'
ls a'b'"c"$'\td\'' ""
  -> ls "abc\td'" ''
ls "a\$b\`c\"d\\e\n"
  -> ls 'a$b`c"d\\e\\n'
ls $'\x41\102\u0043\U00000044\n'
  -> ls 'ABCD\n'
ls $'\x00'
  !! a character beyond ASCII in $'...'
ls $'\xe9'
  !! a character beyond ASCII in $'...'
ls $'\177'
  -> ls '\x7f'
ls $'\200'
  !! a character beyond ASCII in $'...'
ls $'\q'
  !! an unusual escape in $'...'
ls $'\a'
  !! a control character in $'...'
ls $"hello"
  !! a locale-translated string
ls * ?a [a] \* '*' "?" a\[b
  -> ls *(glob, several) '?a'(glob, several) [a](glob, several, exact [a] a) * * '?' a[b
ls a[0] b[xy] a[*].c a'[0]' ~[0] a[0]*
  -> ls a[0](glob, several, exact a[0] a0) b[xy](glob, several) a[*].c(glob, several, exact a[*].c a*.c) a[0] ~[0](glob, several) a[0]*(glob, several)
ls ~ ~/x ~root x~ "~"
  -> ls ~ ~/x ~root x~ ~
ls {a,b} x{1..3}y {c..a} {A..B} {a,b}{c,d}
  -> ls a(form) b(form) x1y(form) x2y(form) x3y(form) c(form) b(form) a(form) A(form) B(form) ac(form) ad(form) bc(form) bd(form)
ls {a,b {a} {a..} {1..2..3}
  !! a brace expansion
ls {a}
  -> ls {a}
ls {01..3}
  !! a brace expansion
ls {1..99}
  !! a brace expansion
ls {1..65}
  !! a brace expansion
ls {a,{b,c}}
  !! a brace expansion
ls {a,b}*
  -> ls a*(form, glob, several) b*(form, glob, several)
ls {a,}
  !! a brace expansion
ls x{a,}
  -> ls xa(form) x(form)
ls \{a,b\} '{a,b}' {a","b}
  -> ls {a,b} {a,b} {a,b}
ls {a,b}'c'
  !! a brace expansion
ls "{a,b}" x{}y
  -> ls {a,b} x{}y
ls {a..B}
  !! a brace expansion
ls \*{a,b} HEAD~{1,2} HEAD^{1,2} ~{1,2}
  !! a brace expansion
[ a = b ]
  -> [ a = b ]
[[ a ]]
ls [
  -> ls [
ls [[
  -> ls [[
ls é
  -> ls 'é'
ls a#b # c
  -> ls a#b
ls a \⏎  b
  -> ls a b
ls a\⏎b
  !! two parsers read the command differently
"""  # noqa: E501
EXPANSIONS = r"""
ls $HOME "$HOME" $HOME/a "$HOME/a" x$HOME $HOME$PWD ${HOME}a "$HOME"/a
  -> ls ~(form) ~(form) ~/a(form) ~/a(form) ?'x'<>(form, starts x) ?<><>(form, loose, several) ?<>'a'(form) ~/a(form)
ls $PWD "$PWD" "$PWD/a" "$PWD"/a x$PWD "$PWD.a" ${PWD%/*}
  -> ls .(form, loose, several, symbolic) .(form, symbolic) ./a(form, symbolic) ./a(form, symbolic) ?'x'<>(form, loose, several, starts x) ?<>'.a'(form) ?<>(form, loose, several)
ls $USER "$USER" $? "$?" $# $$ $RANDOM "$LINENO" $!
  -> ls ?<>(form, loose, several) ?<>(form) ?<number>(form) ?<number>(form) ?<number>(form) ?<number>(form) ?<number>(form) ?<number>(form) ?<number>(form)
ls $1 "$1" "$@" $@ "$*" $* ${10}
  !! the variable $10, whose value is not known
ls $FOO
  -> ls ?<>(form, loose, several)
ls $foo "$foo" x$foo"y"
  -> ls ?<>(form, loose, several) ?<>(form) ?'x'<>'y'(form, loose, several, starts x)
ls $password
  !! the variable $password, whose value is not known
ls $token_x
  !! the variable $token_x, whose value is not known
foo=1; ls $token_x
  !! the variable $token_x, whose value is not known
ls "${foo[@]}"
  !! the variable $foo, whose value is not known
x=a; ls $x "$x" ${x} "${x}b" $x$x x$x/$foo
  -> ls a(form) a(form) a(form) ab(form) aa(form) ?'x''a''/'<>(form, loose, several, starts xa/)
x='a b'; ls $x "$x" "$x"/c
  -> ls ?<>(form, loose, several) 'a b'(form) 'a b/c'(form)
x='*'; ls $x "$x"
  -> ls ?<>(form, loose, several) *(form)
x=*; ls $x "$x"
  -> ls *(form, glob, loose, several) *(form, glob)
x=a*; ls $x/b "$x"
  -> ls a*/b(form, glob, loose, several) a*(form, glob)
x=~/a; ls $x "$x" $x/b
  -> ls ~/a(form) ~/a(form) ~/a/b(form)
x='~/a'; ls $x "$x"
  -> ls ~/a(form) ~/a(form)
x="~ a"; ls $x
  -> ls ?<>(form, loose, several)
x='~*'; ls $x
  -> ls ?<>(form, loose, several)
x=$HOME; ls $x "$x/b" $x/c
  -> ls ~(form) ~/b(form) ~/c(form)
x=$PWD; ls $x "$x" "$x/b"
  -> ls ?<>(form, loose, several) .(form, symbolic) ./b(form, symbolic)
x=$PWD/a; ls $x "$x"
  -> ls ?<>(form, loose, several) ./a(form, symbolic)
x=; ls $x "$x" a$x
  -> ls ?<>(form, loose, several) ''(form) ?'a'<>(form, loose, several, starts a)
x=''; ls ${x:-d} ${x-d} "${x:-d}"
  -> ls d(form) ?<>(form, loose, several) d(form)
x=v; ls ${x:-d} ${x-d} ${x:=e} ${x=e} ${x:+a} ${x+a}
  -> ls v(form) v(form) v(form) v(form) ?<>(form, loose, several) ?<>(form, loose, several)
ls ${x:-d} ${x-.env} ${x:+a}
  -> ls ?<>(form, loose, several) ?<>(form, loose, several) ?<>(form, loose, several)
x=; ls ${x:=.}
  !! a variable that is set where it is used
ls ${PATH:=a}
  !! a variable that is set where it is used
readonly x=v; ls ${x:=.}
  !! a variable that is set where it is used
ls ${x:?gone}
  !! an unusual parameter expansion
ls ${x@Q}
  !! an unusual parameter expansion
ls ${!x}
  !! the shell construct ParamExp with Excl
ls ${x:-$(rm y)}
  !! an expansion inside another one
ls ${x/$(rm y)/}
  !! an expansion inside another one
ls ${x/a/$(rm y)}
  !! an expansion inside another one
x=*; ls ${x:-d} ${x%a} ${#x}
  -> ls ?<>(form, loose, several) ?<>(form, loose, several) ?<number>(form)
x=$PWD; ls ${x%a} "${x:-d}"
  -> ls ?<>(form, loose, several) ?<>(form)
x=v; ls ${x:-*}
  -> ls ?<>(form, loose, several)
x=; ls ${x:-*}
  -> ls ?<>(form, loose, several)
x=abc; ls ${x%c} ${x%%b*} ${x#a} ${x##*b} ${x%[bc]} ${x%\c} ${x%(} ${x%"c"}
  -> ls ab(form) a(form) bc(form) c(form) ab(form) ab(form) ?<>(form, loose, several) ab(form)
x=abcabc; ls ${x/b/X} ${x//b/X} ${x/b} ${x//b} ${x/#a/X} ${x/%c/X} ${x/b/\&} ${x/b/*} ${x/*/y}
  -> ls aXcabc(form) aXcaXc(form) acabc(form) acac(form) ?<>(form, loose, several) ?<>(form, loose, several) ?<>(form, loose, several) ?<>(form, loose, several) ?<>(form, loose, several)
x=hello; ls ${x:1} ${x:1:2} ${x: -2} ${x:0:-1} ${x:9} ${x:1:9} ${x:y} ${x:1+1} ${x:010}
  !! arithmetic with a value that is not known
x=hello; ls ${x:$(rm y)} ${x:1:$y}
  !! the second parser meets an unusual expansion
x=hello; n=1; ls ${x:$n}
  !! the second parser finds a syntax error
x=hello; ls ${x:1:$(rm y)}
  !! the second parser meets an unusual expansion
x=aB; ls ${x^} ${x^^} ${x,} ${x,,} ${x^^a} ${x,,""}
  !! the second parser finds a syntax error
x=abc; ls ${#x} "${#x}" ${#HOME} ${#foo} a${#foo}
  -> ls 3(form) 3(form) ?<number>(form) ?<number>(form) ?'a'<number>(form, starts a)
x=abc; ls ${x%$y}
  !! an expansion inside another one
x=aB; ls ${x^} ${x^^} ${x,} ${x,,}
  -> ls AB(form) AB(form) aB(form) ab(form)
x=hello; ls ${x:1} ${x:1:2} ${x: -2} ${x:0:-1} ${x:9} ${x:1:9} ${x:010} ${x:0:2}a ${x:3:-4}
  -> ls ello(form) el(form) lo(form) hell(form) ?<>(form, loose, several) ello(form) ?<>(form, loose, several) hea(form) ?<>(form, loose, several)
x=$foo; ls ${x:1} ${x/a/b} ${x%a} ${x^^} ${#x} ${x:-d}
  -> ls ?<>(form, loose, several) ?<>(form, loose, several) ?<>(form, loose, several) ?<>(form, loose, several) ?<number>(form) ?<>(form, loose, several)
x=*; ls "${x:1}" "${x/a/b}" "${x%a}" "${x^^}" "${#x}"
  -> ls ?<>(form) ?<>(form) ?<>(form) ?<>(form) ?<number>(form)
f() { ls "$@" "$*" $1; }; f
  -> ls ?(form, loose, several) ?<>(form) ?<>(form, loose, several)
shift; ls "$@" $1
  -> shift
  -> ls ?(form, loose, several) ?<>(form, loose, several)
ls 'a\tb' 'a\'
  -> ls 'a\\tb' 'a\\'
ls; cat "$(x=1)"
  -> ls
  -> cat ?<>(form)
ls; cat "$(unset x)" "$(x=1; pwd)"
  -> ls
  -> 2: pwd
  -> cat ?<>(form) ?<>(form)
a=(); ls "${a[@]}" $a ${#a[@]}
  -> ls ?(form, loose, several) ?<>(form, loose, several) 0(form)
a=(x); ls ${a[x]}
  !! a subscript that is not plain
a=(x); ls ${a[01]}
  !! a subscript that is not plain
a=(x); ls ${a[$i]}
  !! a subscript that is not plain
a=x; ls ${a[0]} "${a[@]}" ${#a[@]}
  -> ls ?<>(form, loose, several) ?(form, loose, several) ?<number>(form, loose, several)
a=(x); a+=(y z); ls "${a[@]}"
  -> ls x(form) y(form) z(form)
a=x; a+=y; ls $a
  -> ls xy(form)
a=(x); a+=y; ls $a
  -> ls ?<>(form, loose, several)
a+=y; ls $a
  -> ls ?<>(form, loose, several)
a=*; a+=b; ls $a
  -> ls ?<>(form, loose, several)
a=$PWD; a+=b; ls $a
  -> ls ?<>(form, loose, several)
a=b; a+=*; ls $a
  -> ls ?<>(form, loose, several)
a=(x*); ls "${a[@]}" ${a[0]}
  -> ls ?(form, loose, several) ?<>(form, loose, several)
a=($foo); ls "${a[@]}" ${a[0]}
  -> ls ?(form, loose, several) ?<>(form, loose, several)
a=({a,b} c); ls "${a[@]}"
  -> ls a(form) b(form) c(form)
a=([1]=x); ls "${a[@]}"
  !! the shell construct statement with Index
a=(x) ls
  !! the command is not valid bash
a[1]=x; ls
  !! the shell construct statement with Index
ls "$(echo a)" $(echo a) `echo a` x$(date)y
  -> 1: echo a
  -> 2: echo a
  -> 3: echo a
  -> 4: date
  -> ls ?<2:1: echo a>(form) ?<2:2: echo a>(form, loose, several) ?<2:3: echo a>(form, loose, several) ?'x'<2:4: date>'y'(form, loose, several, starts x)
ls "$(echo a; echo b)" "$(echo a && echo b)" "$(echo a | cat)" "$(echo a &)"
  -> 1: echo a
  -> 1: echo b
  -> 2: echo a
  -> 2: echo b
  -> 3: echo a
  -> 3: cat <| 3: echo a
  -> 4: echo a
  -> ls ?<>(form) ?<>(form) ?<3:3: cat <| 3: echo a>(form) ?<>(form)
ls "$(if true; then echo a; fi)"
  -> 1: true
  -> 1: echo a
  -> ls ?<>(form)
ls "$(cat <<'E'⏎a b⏎ c⏎⏎E⏎)" "$(cat <<"E"⏎x⏎E⏎)"
  -> 1: cat << 'a b\n c\n\n'
  -> 2: cat << 'x\n'
  -> ls 'a b\n c'(form) x(form)
ls $(cat <<'E'⏎a⏎E⏎)
  -> 1: cat << 'a\n'
  -> ls ?<2:1: cat << 'a\n'>(form, loose, several)
x=$(cat <<'E'⏎a⏎E⏎); ls $x
  -> 1: cat << 'a\n'
  -> ls a(form)
ls "$(cat <<E⏎a⏎E⏎)"
  -> 1: cat << 'a\n'
  -> ls ?<2:1: cat << 'a\n'>(form)
ls "$(cat <<-'E'⏎	a⏎	E⏎)"
  -> 1: cat <<- '\ta\n\t'
  -> ls ?<2:1: cat <<- '\ta\n\t'>(form)
ls "$(cat - <<'E'⏎a⏎E⏎)"
  -> 1: cat - << 'a\n'
  -> ls ?<2:1: cat - << 'a\n'>(form)
ls "$(cat <<'E' | head⏎a⏎E⏎)"
  -> 1: cat << 'a\n'
  -> 1: head <| 1: cat << 'a\n'
  -> ls ?<3:1: head <| 1: cat << 'a\n'>(form)
ls "$(cat <<'E'; ls b⏎a⏎E⏎)"
  !! the second parser finds a syntax error
ls "$(! cat <<'E'⏎a⏎E
  !! the command is not valid bash
)"
  !! the command is not valid bash
ls "$(x=1 cat <<'E'⏎a⏎E
  !! the command is not valid bash
)"
  !! the command is not valid bash
ls "$(head <<'E'⏎a⏎E
  !! the command is not valid bash
)"
  !! the command is not valid bash
ls "$(cat <<'E' 2>&1⏎a⏎E⏎)"
  -> 1: cat << 'a\n' >& 1
  -> ls ?<2:1: cat << 'a\n' >& 1>(form)
ls "$(cat 0<<'E'⏎a⏎E⏎)"
  !! the second parser finds a syntax error
ls "$(cat <<'E'⏎E⏎)"
  -> 1: cat << ''
  -> ls ''(form)
ls "$()"
  !! the second parser finds a syntax error
ls `cat <<'E'⏎a⏎E⏎`
  -> 1: cat << 'a\n'
  -> ls ?<2:1: cat << 'a\n'>(form, loose, several)
ls <(cat a) "$(cat <(ls b))"
  -> 1: cat a
  -> 2.3: ls b
  -> 2: cat ?<2:2.3: ls b>(form, starts /dev/fd/, below /dev/stdin)
  -> ls ?<2:1: cat a>(form, starts /dev/fd/, below /dev/stdin) ?<4:2: cat ?<2:2.3: ls b>(form, starts /dev/fd/, below /dev/stdin)>(form)
ls >(cat)
  !! an output process substitution
ls x<(cat a)
  !! two parsers read the command differently
ls $((1+2)) $((2*3-1)) $((1-2)) $((foo))
  !! arithmetic with a value that is not known
ls $((1+2))
  -> ls 3(form)
n=5; ls $((n+1)) $(($n+1)) $((n)) "$((n*n))" $((-n)) $((n/2)) $(((n)+1)) $((n%2))
  -> ls 6(form) 6(form) 5(form) 25(form) ?<integer>(form) ?<integer>(form) 6(form) ?<integer>(form)
n=010; ls $((n+1)) $((0x10)) $((10))
  -> ls ?<integer>(form) ?<integer>(form) 10(form)
n=x; ls $((n))
  !! arithmetic with a value that is not known
n=$(cat f); ls $((n+1))
  -> 1: cat f
  -> number ?<2:1: cat f>
  -> ls ?<integer>(form)
ls $(( $(cat f) + 1 )) $((${#HOME}+1)) $(($?+1)) $((RANDOM))
  -> 1: cat f
  -> number ?<2:1: cat f>
  -> number ?<number>
  -> number ?<number>
  -> ls ?<integer>(form) ?<integer>(form) ?<integer>(form) ?<integer>(form)
ls $((a=1))
  !! an arithmetic assignment
ls $((a++))
  !! the shell construct UnaryArithm with Post
ls $((~1)) $((!1)) $((+1))
  -> ls ?<integer>(form) ?<integer>(form) ?<integer>(form)
ls $((a[0]))
  -> number ?
  -> ls ?<integer>(form)
ls $((1 ? 2 : 3))
  -> ls ?<integer>(form)
n=1; ls $((n ? 2 : 3))
  -> ls ?<integer>(form)
ls $(("1"+1))
  !! arithmetic with an expansion
ls $((1000000000000*10)) $((999999999999+1)) $((1000000000000+1))
  -> ls ?<integer>(form) 1000000000000(form) ?<integer>(form)
ls $((1 == 1 && 2 < 3))
  -> ls ?<integer>(form)
n=*; ls $((n))
  !! arithmetic with a value that is not known
n=5; ls $((${n}+1)) $((${n:-1}+1))
  -> ls 6(form) ?<integer>(form)
n=(1 2); ls $((n+1))
  -> number [1 2]
  -> ls ?<integer>(form)
x=1; ls $((++x))
  !! an arithmetic assignment
ls $((1+$?)) $(($?+1))
  -> number ?<number>
  -> number ?<number>
  -> ls ?<integer>(form) ?<integer>(form)
ls $((999999999999*2)) $((999999999999*-2)) $((999999*999999))
  -> ls ?<integer>(form) ?<integer>(form) 999998000001(form)
x=1; ls $((1${x}))
  !! the second parser finds a syntax error
x=1; ls $((1$x))
  !! the second parser finds a syntax error
x='1 2'; ls $(($x))
  !! arithmetic with a value that is not known
ls "$HOME/"x "$HOME/" "$PWD/"x
  -> ls ~/x(form) ~/(form) ./x(form, symbolic)
ls $HOME""/a
  -> ls ?<>'''/a'(form)
x=b; ls $HOME/a$x $PWD/a"$x"
  -> ls ~/ab(form) ./ab(form, loose, several, symbolic)
ls $HOME$foo "$HOME$foo"
  -> ls ?<><>(form, loose, several) ?<><>(form)
ls a*$foo ~$foo ~/a$foo "$PWD/a$foo" a$foo*
  -> ls ?<><>(form, loose, several) ?<><>(form, loose, several) ?<><>(form, loose, several) ?<>'/a'<>(form) ?'a'<><>(form, loose, several, starts a)
x=a~b; ls $x "$x"
  -> ls ?<>(form, loose, several) a~b(form)
ls ${HOME[0]} ${#HOME[@]}
  -> ls ?<>(form, loose, several) ?<number>(form, loose, several)
a=(x); ls ${a[1]} ${a[0]}
  -> ls ?<>(form, loose, several) x(form)
a=x; a+=(y); ls $a "${a[@]}"
  -> ls ?<>(form, loose, several) ?(form, loose, several)
a=*; a+=b; ls "$a"
  -> ls ?<>(form)
a=b; a+=*; ls "$a"
  -> ls ?<>(form)
a=$PWD; a+=b; ls "$a"
  -> ls ?<>(form)
n=$?; while ls; do ((n++)); done; wc $n
  -> ls
  -> wc ?<integer>(form, loose, several)
n=$(date); while ls; do ((n++)); done; wc $n
  !! arithmetic with a value that is not known
n=1$?; while ls; do ((n++)); done; wc $n
  !! arithmetic with a value that is not known
n=$foo; while ls; do ((n++)); done; wc $n
  !! arithmetic with a value that is not known
ls "a$(date +%s)b" a"$x"b$(date)
  -> 1: date +%s
  -> 2: date
  -> ls ?'a'<2:1: date +%s>'b'(form, starts a) ?'a'<>'b'<2:2: date>(form, loose, several, starts a)
ls $[1+2]
  !! the shell construct ArithmExp with Bracket
"""  # noqa: E501
REDIRECTS = r"""
ls > a 2> b < c >> d
  -> ls > a > b < c >> d
ls &> a
  -> ls &> a
ls &>> a
  -> ls &>> a
ls 2>&1
  -> ls >& 1
ls >& a
  -> ls >& a
ls <& 3
  -> ls <& 3
ls >| a
  -> ls >| a
ls <> a
  !! an unusual redirect
ls 0> a
  !! standard input opened for output
ls 0>> a
  !! standard input opened for output
ls 0>&1
  !! standard input opened for output
ls 00> a
  !! standard input opened for output
ls 0< a
  !! two parsers read the command differently
ls 3< a
  !! an input that is not standard input
ls {fd}> a
  !! a redirect through a variable
> a
  -> > a
2>&1
  -> >& 1
cat <<E⏎a⏎E
  -> cat << 'a\n'
cat <<'E'⏎$a `b` \c⏎E
  -> cat << '$a `b` \\c\n'
cat <<E⏎$a⏎E
  !! an expansion in a here-document
cat <<E⏎`a`⏎E
  !! an expansion in a here-document
cat <<E⏎a\$b⏎E
  -> cat << 'a\\$b\n'
cat <<-E⏎	a⏎	E
  -> cat <<- '\ta\n\t'
cat 0<<E⏎a⏎E
  !! the second parser finds a syntax error
cat 3<<E⏎a⏎E
  !! an input that is not standard input
cat << E > f⏎a⏎E
  -> cat << 'a\n' > f
cat <<E | wc⏎a⏎E
  -> cat << 'a\n'
  -> wc <| cat << 'a\n'
cat <<E && ls⏎a⏎E
  -> cat << 'a\n'
  -> ls
cat - <<E⏎a⏎E
  -> cat - << 'a\n'
cat -x - <<E⏎a⏎E
  -> cat -x - << 'a\n'
cat <<< a
  -> cat <<< a
cat <<< "$x"
  -> cat <<< ?<>(form)
cat <<< $(rm x)
  -> 1: rm x
  -> cat <<< ?<2:1: rm x>(form, loose, several)
cat <<< "a $(ls b)"
  -> 1: ls b
  -> cat <<< ?'a '<2:1: ls b>(form, starts a )
cat < <(ls)
  -> 1: ls
  -> cat < ?<2:1: ls>(form, starts /dev/fd/, below /dev/stdin)
{ ls; cat; } > f
  -> > f
  -> ls
  -> cat
(ls) > f 2>&1
  -> > f >& 1
  -> 1: ls
ls > "$x"
  -> ls > ?<>(form)
ls > $(date)
  -> 1: date
  -> ls > ?<2:1: date>(form, loose, several)
ls > a{b,c}
  !! a brace expansion
if ls; then cat; fi > f
  -> > f
  -> ls
  -> cat
while read x; do ls "$x"; done < f
  -> < f
  -> ls ?<>(form)
for i in a; do ls; done > f
  -> > f
  -> ls
ls | cat > f
  -> ls
  -> cat > f <| ls
ls && cat > f
  -> ls
  -> cat > f
! ls > f
  -> ls > f
[[ -n a ]] > f
  -> > f
[ -n a ] > f
  -> [ -n a ] > f
ls > *
  -> ls > *(glob, several)
x=1 > f
  !! the second parser finds a syntax error
cat <<A <<B⏎a⏎A⏎b⏎B
  !! the second parser finds a syntax error
"""
CALLS = r"""
x=1 y=2
x=1; y=$x; ls $y
  -> ls 1(form)
x=1 y=$x; ls $y
  -> ls 1(form)
x=1 ls $x
  !! the variable $x, whose value is not known
x=2; x=1 ls $x; ls $x
  !! the variable $x, whose value is not known
x=1 y=$x ls
  !! the variable $x, whose value is not known
\shift
  -> shift
exec ls > /dev/null
  -> exec ls > /dev/null
exec > /dev/null 2>&1
exec > f 2>&1
  -> exec > f >& 1
ls | while read -d '' x; do cat "$x"; done
  -> ls
  -> cat ?<record:2:ls>(form)
read $foo
  !! read of something else than plain names
read -r $foo x
  !! read of something else than plain names
ls | while read x; do while read y; do cat "$y"; done <<< "$x"; done
  -> ls
  -> <<< ?<line:2:ls>(form)
  -> cat ?<>(form)
readonly x=1; export x=2
  !! a declaration of variables
readonly x=1; local x=2
  !! a declaration of variables
read -d '' x < f; ls $x
  -> < f
  -> ls ?<>(form, loose, several)
PATH=1; ls
  -> PATH:=1
  -> ls
PATH=1 ls
  -> PATH:=1 ls
PATH=1 > f
  !! the second parser finds a syntax error
PATH=$x y=2; ls
  -> PATH:=?<>(form, loose, several)
  -> ls
NS=a; ls $NS
  -> ls a(form)
POD_NAME=a; ls $POD_NAME
  -> ls a(form)
FOO_BAR=a; ls $FOO_BAR
  -> FOO_BAR:=a
  -> ls a(form)
http_proxy=a; ls
  -> http_proxy:=a
  -> ls
path=a; ls
  -> path:=a
  -> ls
$x a
  !! the program is only known when it runs
x=ls; $x a
  !! the program is only known when it runs
{ls,a}
  !! the program is only known when it runs
"$(ls)" a
  !! the program is only known when it runs
ls shift
  -> ls shift
'ls' a; \ls b; l"s" c
  -> ls a
  -> ls b
  -> ls c
unset x; ls
  -> ls
x=1; unset x; ls $x
  !! the variable $x, whose value is not known
x=1; y=2; unset x; ls $y
  -> ls 2(form)
unset -v x y; ls
  -> ls
unset PATH
  -> unset PATH
unset
  -> unset
unset -f x
  -> unset -f x
unset x > f
  !! two parsers read the command differently
readonly x=1; unset x
  -> unset x
readonly x=1; x=2
  !! an assignment to a variable that is read only
readonly x=1; ls $x
  -> ls 1(form)
readonly PATH=1
  !! a declaration of variables
readonly x
  !! a declaration of variables
readonly
  !! a declaration of variables
export x=1 y; ls
  !! a declaration of variables
export x=1; ls $x
  -> x:=1
  -> ls 1(form)
export PATH=1; ls
  -> PATH:=1
  -> ls
export -n x
  !! a declaration of variables
export x=$(ls)
  -> 1: ls
  -> x:=?<2:1: ls>(form)
declare -F
declare -f
  !! a declaration of variables
declare x=1
  !! a declaration of variables
typeset -F
  !! a declaration of variables
local x=1
  !! a declaration of variables
exec 2>&1
exec > /dev/null
exec > f
  -> exec > f
exec >&2; ls
  -> ls
exec < f
  -> exec < f
exec ls
  -> exec ls
exec
  -> exec
exec 2>&1 x
  !! two parsers read the command differently
x=1 exec 2>&1
  -> x:=1 exec >& 1
mapfile -t x < f; ls "${x[@]}" $x
  -> < f
  -> ls ?(form, loose, several) ?<>(form, loose, several)
readarray -t x < f; ls $x
  -> < f
  -> ls ?<>(form, loose, several)
mapfile x y < f
  !! mapfile of something else than one plain name
mapfile -n 3 x < f
  !! mapfile of something else than one plain name
mapfile PATH < f
  !! mapfile of something else than one plain name
mapfile "$x" < f
  !! mapfile of something else than one plain name
y=1 mapfile x < f
  !! mapfile of something else than one plain name
ls | mapfile x
  -> ls
  ->  <| ls
read x; ls $x "$x"
  -> ls ?<>(form, loose, several) ?<>(form)
read -r x y < f; ls $x "$y"
  -> < f
  -> ls ?<>(form, loose, several) ?<>(form)
read -rs x; ls
  -> ls
read -sr x; ls
  -> ls
read -s x; ls
  -> ls
read -p a x
  !! read of something else than plain names
read PATH
  !! read of something else than plain names
read
  !! read of something else than plain names
read _
  !! read of something else than plain names
read x _; ls "$x"
  -> ls ?<>(form)
read -a x; ls "$x"
  -> ls ?<>(form)
read -ra x <<< "a b"; ls "${x[0]}"
  -> <<< 'a b'
  -> ls ?<>(form)
read -a x y
  !! read of something else than one plain array
read -a PATH
  !! read of something else than one plain array
read -a
  !! read of something else than one plain array
read -r -a x; ls $x
  -> ls ?<>(form, loose, several)
IFS=, read x; ls $x
  -> ls ?<>(form, loose, several)
IFS= read x; ls $x
  -> ls ?<>(form, loose, several)
IFS=$y read x
  !! read with variables set
y=1 read x
  !! read with variables set
x=1 IFS= read x
  !! read with variables set
ls | read x
  -> ls
ls | while read x; do cat "$x"; done
  -> ls
  -> cat ?<line:2:ls>(form)
ls | while read -r x y; do cat "$x" $y; done
  -> ls
  -> cat ?<field:2:ls>(form) ?<field:2:ls>(form, loose, several)
ls | while IFS= read -r x; do cat "$x"; done
  -> ls
  -> cat ?<line:2:ls>(form)
ls | while IFS=: read -r x; do cat "$x"; done
  -> ls
  -> cat ?<>(form)
ls | while read -r -d '' x; do cat "$x"; done
  -> ls
  -> cat ?<record:2:ls>(form)
ls | while read -r -d '' x y; do cat "$x"; done
  -> ls
  -> cat ?<field:2:ls>(form)
ls | while read -d x y; do cat "$y"; done
  !! read of something else than plain names
ls | while read -d ''; do cat; done
  !! read of something else than plain names
ls |& while read x; do cat "$x"; done
  -> ls
  -> cat ?<>(form)
while read x; do cat "$x"; done < <(ls)
  -> 1: ls
  -> < ?<2:1: ls>(form, starts /dev/fd/, below /dev/stdin)
  -> cat ?<line:2:1: ls>(form)
while read x; do cat "$x"; done <<< "$(ls)"
  -> 1: ls
  -> <<< ?<2:1: ls>(form)
  -> cat ?<line:2:1: ls>(form)
while read x; do cat "$x"; done <<< $(ls)
  -> 1: ls
  -> <<< ?<2:1: ls>(form, loose, several)
  -> cat ?<line:2:1: ls>(form)
while read x; do cat "$x"; done <<< a
  -> <<< a
  -> cat ?<>(form)
while read x; do cat "$x"; done < f
  -> < f
  -> cat ?<>(form)
ls | while read x; do read y < f; cat "$x" "$y"; done
  -> ls
  -> < f
  -> cat ?<line:2:ls>(form) ?<>(form)
ls | { read x; cat "$x"; }
  -> ls
  -> cat ?<line:2:ls>(form)
ls | (read x; cat "$x")
  -> ls
  -> 1: cat ?<line:2:ls>(form)
(ls; pwd) | while read x; do cat "$x"; done
  -> 1: ls
  -> 1: pwd
  -> cat ?<>(form)
{ ls; } | while read x; do cat "$x"; done
  -> ls
  -> cat ?<>(form)
ls | sort | while read x; do cat "$x"; done
  -> ls
  -> sort <| ls
  -> cat ?<line:3:sort <| ls>(form)
for i in a; do ls; done | while read x; do cat "$x"; done
  -> ls
  -> cat ?<>(form)
"read" x; ls
  !! a builtin or function that is not written plainly
r\ead x
  !! a builtin or function that is not written plainly
y=read; $y x
  !! the program is only known when it runs
x=1; read x; ls $x
  -> ls ?<>(form, loose, several)
x=1; y=2; y=3 read x
  !! read with variables set
f() { ls "$1" "$2" "$@" $#; }; f a b
  -> ls a(form) b(form) a(form) b(form) ?<number>(form)
f() { ls "$1"; }; f $(date)
  !! a function called with words that are not known
f() { ls "$1"; }; f "$(date)"
  -> 1: date
  -> ls ?<2:1: date>(form)
f() { ls "$1"; }; f *
  !! a function called with words that are not known
f() { ls "$1"; }; x=1 f a
  !! a function called with variables or redirects of its own
f() { ls "$1"; }; f a > b
  !! a function called with variables or redirects of its own
f() { ls "$1"; }; "f" a
  !! a builtin or function that is not written plainly
f() { ls "$1"; }; f a | cat
  -> ls a(form)
  -> cat
f() { ls; }; f | while read x; do cat "$x"; done
  -> ls
  -> cat ?<>(form)
f() { ls; }; cat "$(f)"
  -> 1: ls
  -> cat ?<>(form)
f() { ls; }; echo a | f
  -> echo a
  -> ls
f() { cat; }; echo a | f
  -> echo a
  -> cat
f() { f; }; f
  !! a function called with words that are not known
g() { f; }; f() { ls; }; g
  -> ls
f() { ls; }; g() { f "$1"; cat "$1"; }; g x
  -> ls
  -> cat x(form)
f() { ls $2 $3; }; f a
  -> ls ?<>(form, loose, several) ?<>(form, loose, several)
f() { local x=1; ls $x; }; f; ls $x
  !! the variable $x, whose value is not known
f() { local x y=2; ls $x $y; }; f
  -> ls ?<>(form, loose, several) 2(form)
f() { x=1; }; f
  !! a function that sets variables of others
f() { for i in a; do ls $i; done; }; f
  !! a function that sets variables of others
f() { local i; for i in a; do ls $i; done; }; f
  -> ls a(form)
f() { read x; }; f
  !! a function that sets variables of others
f() { local PATH=1; ls; }; f
  !! a declaration of variables
f() { local -r x=1; }; f
  !! a declaration of variables
f() { export x=1; }; f
  !! a function that sets variables of others
f() { shift; ls; }; f a
  !! a function's arguments are moved
f() { ls; } > f; f
  !! the second parser meets an unusual function
function f { ls; }; f
  -> ls
function f() { ls; }; f
  -> ls
f() ( ls ); f
  -> 2: ls
F() { ls; }; F
  !! a function named F
cat() { ls; }
  !! a function named cat
f-g() { ls; }
  !! a function named f-g
f() { ls; }; f() { cat; }
  !! a function named f
if true; then f() { ls; }; fi
  !! the shell construct FuncDecl
x=1; f() { ls "$x"; }; f
  !! the variable $x, whose value is not known
f() { ls; }; (f)
  -> 1: ls
f() { ls; }; f; f; x=2; f
  -> ls
  -> ls
  -> ls
f() { rm x; }; ls
  -> ls
f() { g() { ls; }; }; f
  !! a function that sets variables of others
f() { ls "$1" "$9"; }; f a b
  -> ls a(form) ''(form)
x=1; f() { ls; }; f; ls $x
  -> ls
  -> ls 1(form)
f() { ls $0; }; f
  -> ls ?<$0>(form, loose, several)
ls; shift
  -> ls
  -> shift
ls $1; shift
  -> ls ?<>(form, loose, several)
  -> shift
"shift"
  -> shift
x=shift; ls $x
  -> ls shift(form)
"""
FLOW = r"""
ls; cat & wc
  -> ls
  -> cat
  -> wc
x=1; ls & cat $x
  -> ls
  -> cat 1(form)
x=1 & ls $x
  !! the variable $x, whose value is not known
x=1; x=2 & ls $x
  !! the variable $x, whose value is not known
ls && cat || wc
  -> ls
  -> cat
  -> wc
x=1 && ls $x
  -> ls 1(form)
x=1 || ls; cat $x
  -> ls
  -> cat 1(form)
x=1; true && x=2; ls $x
  !! the variable $x, whose value is not known
x=1; true && x=2 && ls $x
  -> true
  -> ls 2(form)
x=1; true || x=2; ls $x
  !! the variable $x, whose value is not known
x=1; true || x=1; ls $x
  !! the variable $x, whose value is not known
x=1; false || x=2 && ls $x
  !! the variable $x, whose value is not known
x=1; ! x=2; ls $x
  -> ls 2(form)
x=a; ! { false && x=b; } && ls $x
  !! the variable $x, whose value is not known
x=a; { true && x=b; } && ls $x
  -> true
  -> ls b(form)
ls | > f
  -> ls
  -> > f
ls $(<f)
  !! the second parser meets file_redirect
ls "$(< f)"
  !! the second parser meets file_redirect
! ls
  -> ls
! true && ls
  -> true
  -> ls
true && x=1; ls $x
  !! the variable $x, whose value is not known
x=1; (x=2; ls $x); ls $x
  !! the variable $x, whose value is not known
(ls; (cat); wc); pwd
  -> 1: ls
  -> 1.2: cat
  -> 1: wc
  -> pwd
(cd a); ls
  -> 1: cd a
  -> ls
x=1; { x=2; }; ls $x
  -> ls 2(form)
x=1; ls | x=2; ls $x
  !! the variable $x, whose value is not known
x=1; x=2 | ls $x; cat $x
  !! the variable $x, whose value is not known
ls | cat | wc
  -> ls
  -> cat <| ls
  -> wc <| cat <| ls
ls |& cat
  -> ls
  -> cat <| ls
ls | { cat; wc; }
  -> ls
  -> cat
  -> wc
{ ls; cat; } | wc
  -> ls
  -> cat
  -> wc
(ls) | wc
  -> 1: ls
  -> wc
ls | (wc)
  -> ls
  -> 1: wc
! ls | wc
  -> ls
  -> wc <| ls
ls | if true; then cat; fi
  -> ls
  -> true
  -> cat
time ls
  -> ls
time -p ls
  -> ls
time
  !! there is no command in it
time { ls; cat; }
  !! two parsers read the command differently
x=1; time x=2; ls $x
  !! two parsers read the command differently
if ls; then cat; else wc; fi
  -> ls
  -> cat
  -> wc
x=1; if true; then x=2; fi; ls $x
  !! the variable $x, whose value is not known
x=1; if true; then x=2; else x=2; fi; ls $x
  !! the variable $x, whose value is not known
x=1; if true; then x=2; else x=3; fi; ls $x
  !! the variable $x, whose value is not known
if x=1; then ls $x; else cat $x; fi; wc $x
  -> ls 1(form)
  -> cat 1(form)
  -> wc 1(form)
if true && x=1; then ls $x; else cat $x; fi
  !! the variable $x, whose value is not known
if ls; then cat; elif wc; then pwd; else id; fi
  -> ls
  -> cat
  -> wc
  -> pwd
  -> id
x=1; if a; then x=2; elif b; then x=2; fi; ls $x
  !! the variable $x, whose value is not known
while ls; do cat; done
  -> ls
  -> cat
x=1; while ls $x; do x=2; done; cat $x
  !! the variable $x, whose value is not known
x=1; while ls; do cat $x; done; wc $x
  -> ls
  -> cat 1(form)
  -> wc 1(form)
while x=1; do ls $x; done
  -> ls 1(form)
while true && x=1; do ls $x; done
  -> true
  -> ls 1(form)
until true && x=1; do ls $x; done
  !! the variable $x, whose value is not known
while ls; do cd a; done
  !! a change of directory in a loop
while (cd a); do ls; done
  -> 1: cd a
  -> ls
while ls; do pushd a; done
  !! a change of directory in a loop
until popd; do ls; done
  !! a change of directory in a loop
n=0; while ls; do n=$((n+1)); cat $n; done; wc $n
  -> ls
  -> cat ?<integer>(form, loose, several)
  -> wc ?<integer>(form, loose, several)
n=0; while ls; do ((n++)); cat $n; done; wc $n
  -> ls
  -> cat ?<integer>(form, loose, several)
  -> wc ?<integer>(form, loose, several)
n=0; while ls; do ((n+=1)); done; wc $n
  -> ls
  -> wc ?<integer>(form, loose, several)
n=0; while ls; do let n++; done; wc $n
  -> ls
  -> wc ?<integer>(form, loose, several)
n=0; while ls; do n=$((n+1)); n=$(date); done; wc $n
  !! arithmetic with a value that is not known
n=a; while ls; do n=$((n+1)); done; wc $n
  !! arithmetic with a value that is not known
n=0; while ls; do ((--n)); done; ls $((n+1))
  -> ls
  -> ls ?<integer>(form)
n=*; while ls; do ((n++)); done; wc $n
  !! arithmetic with a value that is not known
for i in a b; do ls $i; done
  -> ls a(form)
  -> ls b(form)
for i in a b; do ls $i; done; cat $i
  !! the variable $i, whose value is not known
for i in a 'b c'; do ls $i "$i"; done
  -> ls a(form) a(form)
  -> ls ?<>(form, loose, several) 'b c'(form)
for i in; do ls $i; done
  !! the second parser finds a syntax error
for i; do ls $i; done
  -> ls ?<>(form, loose, several)
for i in "$@"; do ls "$i"; done
  -> ls ?<word:$@>(form)
for i in $foo; do ls "$i" $i; done
  -> ls ?<word:>(form) ?<word:>(form, loose, several)
for i in *.py; do ls $i "$i"; done
  -> ls *.py(form, glob, loose, several) *.py(form, glob)
for i in *.py a; do ls $i "$i"; done
  -> ls *.py(form, glob, loose, several) *.py(form, glob)
  -> ls a(form) a(form)
for i in *.py *.md; do ls $i; done; cat x
  -> ls *.py(form, glob, loose, several)
  -> ls *.md(form, glob, loose, several)
  -> cat x
for i in a b; do ls $i; done; cat x
  -> ls a(form)
  -> ls b(form)
  -> cat x
for i in a*1 a*2 a*3 a*4 a*5 a*6 a*7 a*8; do ls $i; done
  -> ls a*1(form, glob, loose, several)
  -> ls a*2(form, glob, loose, several)
  -> ls a*3(form, glob, loose, several)
  -> ls a*4(form, glob, loose, several)
  -> ls a*5(form, glob, loose, several)
  -> ls a*6(form, glob, loose, several)
  -> ls a*7(form, glob, loose, several)
  -> ls a*8(form, glob, loose, several)
for i in a*1 a*2 a*3 a*4 a*5 a*6 a*7 a*8 a*9; do ls $i; done
  -> ls ?<>(form, loose, several)
for i in $PWD/*.py; do ls $i; done
  -> ls ?<>(form, loose, several)
for i in $(ls); do cat $i "$i"; done
  -> 1: ls
  -> cat ?<word:2:1: ls>(form, loose, several) ?<word:2:1: ls>(form)
for i in "$(ls)"; do cat $i "$i"; done
  -> 1: ls
  -> cat ?<2:1: ls>(form, loose, several) ?<2:1: ls>(form)
for i in $(ls) a; do cat $i; done
  -> 1: ls
  -> cat ?<>(form, loose, several)
for i in {1..3} x; do ls $i; done
  -> ls 1(form)
  -> ls 2(form)
  -> ls 3(form)
  -> ls x(form)
for i in {1..64} x; do ls $i; done
  -> ls ?<>(form, loose, several)
for i in a b; do for j in c d; do ls $i$j; done; done
  -> ls ac(form)
  -> ls ad(form)
  -> ls bc(form)
  -> ls bd(form)
for i in a b; do cd $i; done
  -> cd a(form)
  -> cd b(form)
for i in a b; do cd $i; ls; done; ls
  -> cd a(form)
  -> ls
  -> cd b(form)
  -> ls
  -> ls
for i in *; do cd $i; done
  !! a change of directory in a loop
for i in $(ls); do cd x; done
  !! a change of directory in a loop
for i in $(ls) b; do (cd $i); done
  -> 1: ls
  -> 2: cd ?<>(form, loose, several)
for PATH in a; do ls; done
  !! a loop that sets $PATH
x=1; for i in a b; do ls $x; x=2; done; cat $x
  !! the variable $x, whose value is not known
x=1; for i in a; do (x=2); done; ls $x
  !! the variable $x, whose value is not known
select i in a; do ls; done
  !! the shell construct ForClause with Select
for ((i=0;i<3;i++)); do ls $i; done; cat $i
  -> ls ?<integer>(form, loose, several)
  -> cat ?<integer>(form, loose, several)
for ((;;)); do ls; done
  -> ls
for i in $foo; do ((x=1)); done; ls $i
  !! the variable $i, whose value is not known
ls "$(a | { b; c; })" "$(a | (b))" "$(a |& b)" "$(a && b | c)"
  -> 1: a
  -> 1: b
  -> 1: c
  -> 2: a
  -> 2.3: b
  -> 4: a
  -> 4: b <| 4: a
  -> 5: a
  -> 5: b
  -> 5: c <| 5: b
  -> ls ?<>(form) ?<>(form) ?<3:4: b <| 4: a>(form) ?<>(form)
(x=$((1))); ls
  -> ls
for ((i=0;;)); do ls $i; done
  -> ls ?<integer>(form, loose, several)
for ((i=0;i<3;i++)); do cd a; done
  !! a change of directory in a loop
for ((PATH=0;;)); do ls; done
  !! an arithmetic assignment
for ((i=$(date);i<3;)); do ls; done
  -> 1: date
  -> number ?<2:1: date>
  -> ls
for ((i=0;i<n;i++)); do ls; done
  !! arithmetic with a value that is not known
x=1; for ((i=0;i<3;i++)); do ls $x; x=2; done; cat $x
  !! the variable $x, whose value is not known
case a in b) ls;; c|d*) cat;; esac
  -> ls
  -> cat
case $x in b) ls $x;; esac
  -> ls ?<>(form, loose, several)
x=1; case a in b) x=2; ls $x;; c) ls $x;; esac; cat $x
  !! the variable $x, whose value is not known
case a in $x) ls;; esac
  !! an expansion in a pattern
case a in "b") ls;; 'c d') cat;; [ab]) wc;; esac
  -> ls
  -> cat
  -> wc
case $(ls) in b) cat;; esac
  -> 1: ls
  -> cat
case a in esac
case a in b) ls;& c) cat;;& d) wc;; esac
  -> ls
  -> cat
  -> wc
case a in (b) cd x;; esac
  -> cd x
[[ -n $x && a == b* || ! -f "c d" ]] && ls
  -> ls
[[ ( a = b ) ]]
[[ $x =~ ^a.*b$ ]]
[[ -v x ]]
  !! an unusual test
[[ a -eq 1 ]]
  !! arithmetic with a value that is not known
[[ 1 -eq 1 ]]
[[ $x -gt 1 ]]
  -> number ?<>(form, loose, several)
[[ $# -gt 1 ]]
  -> number ?<number>(form)
[[ $(date) -lt 5 ]]
  -> 1: date
  -> number ?<2:1: date>(form, loose, several)
n=1; [[ $n -ge 1 ]]
[[ a -nt b ]]
[[ a < b ]]
[[ -R x ]]
  !! an unusual test
[[ -o x ]]
  !! an unusual test
[[ $(ls) ]]
  -> 1: ls
((1))
((x=1)); ls $x
  -> ls ?<integer>(form, loose, several)
((x+=1)); ls
  !! arithmetic with a value that is not known
x=1; ((x+=1)); ls $x
  -> ls ?<integer>(form, loose, several)
x=1; ((x=2, y=3)); ls $x $y
  -> ls ?<integer>(form, loose, several) ?<integer>(form, loose, several)
x=1; ((x++)); ls $x
  -> ls ?<integer>(form, loose, several)
((x++)); ls
  !! arithmetic with a value that is not known
((PATH=1))
  !! an arithmetic assignment
((x=y=1)); ls $x $y
  -> ls ?<integer>(form, loose, several) ?<integer>(form, loose, several)
((x=$(date)))
  -> 1: date
  -> number ?<2:1: date>
((x = 1 + 2)) && ls $x
  -> ls ?<integer>(form, loose, several)
((a[0]=1))
  !! an arithmetic assignment
readonly x=1; ((x=2))
  !! an arithmetic assignment
let x=1; ls $x
  -> ls ?<integer>(form, loose, several)
let x=1 y=2; ls $y
  -> ls ?<integer>(form, loose, several)
let "x=1"
  !! arithmetic with an expansion
let x=1+$(date)
  !! two parsers read the command differently
coproc ls
  !! the shell construct CoprocClause
# comment
ls # comment
  -> ls
#!/bin/sh
"""


def source(piece: str | Source) -> str:
    if isinstance(piece, str):
        return repr(piece)
    cut = "" if piece.cut is Cut.WHOLE else f"{piece.cut}:"
    return f"<{cut}{piece.kind if piece.atom is None else f'{piece.weight}:{shown(piece.atom)}'}>"


def word(each: Word) -> str:
    if each.items is not None:
        said = f"[{' '.join(map(word, each.items))}]"
    elif each.text is None:
        said = "?" + "".join(map(source, each.pieces))
    else:
        said = each.text if PLAIN.fullmatch(each.text) else repr(each.text)
    marks = [("form", each.form is not None), ("glob", each.glob), ("loose", each.loose)]
    marks += [("several", each.several), ("symbolic", each.symbolic)]
    told = [name for name, true in marks if true]
    told += [f"starts {each.starts}"] if each.starts else []
    told += [f"below {' '.join(each.below)}"] if each.below else []
    told += [f"exact {' '.join(each.exact)}"] if each.exact else []
    return f"{said}({', '.join(told)})" if told else said


def shown(atom: Atom) -> str:
    said = [f"{name}:={word(value)}" for name, value in atom.assignments]
    said += map(word, atom.argv)
    said += [f"{redirect.operator} {word(redirect.target)}" for redirect in atom.redirects]
    said += [f"number {word(each)}" for each in atom.numbers]
    scope = f"{'.'.join(map(str, atom.scope))}: " if atom.scope else ""
    return scope + " ".join(said) + (f" <| {shown(atom.feed)}" if atom.feed is not None else "")


def read(reader: ShellReader, text: str) -> list[str]:
    try:
        return [f"-> {shown(atom)}" for atom in reader.read(text)]
    except Unprovable as error:
        return [f"!! {error}"]


def table(said: str) -> list[tuple[str, list[str]]]:
    rows: list[tuple[str, list[str]]] = []
    for line in filter(None, said.split("\n")):
        if line.startswith("  ") and line[2:5] in {"-> ", "!! "}:
            rows[-1][1].append(line[2:])
        else:
            rows.append((line.replace("\u23ce", "\n"), []))
    return rows


READINGS = table(WORDS + EXPANSIONS + REDIRECTS + CALLS + FLOW)


@pytest.fixture(scope="module")
def reader() -> ShellReader:
    """Few processes of the parser read all of them."""
    made = ShellReader(timeout_s=20.0)
    made.learn(text for text, _ in READINGS)
    return made


@pytest.mark.parametrize(("text", "found"), READINGS)
def test_what_is_read_in_a_text(reader: ShellReader, text: str, found: list[str]) -> None:
    assert read(reader, text) == found


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("for i in {1..64}; do ls; done", 64),
        ("for i in {1..64}; do ls; pwd; done", 128),
        ("for i in {1..20}; do for j in {1..20}; do ls; done; done", 400),
        ("; ".join(["ls"] * 50), 50),
        ("ls | " * 49 + "wc", 50),
    ],
)
def test_so_many_commands_are_read(text: str, count: int) -> None:
    assert len(ShellReader(20.0).read(text)) == count


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("for i in {1..21}; do for j in {1..20}; do ls; done; done", "more than 400 commands"),
        ("; ".join(["ls"] * 51), "more than 50 commands"),
        ("ls " + "a" * 9_998, "longer than 10000 characters"),
        ("x=" + "a" * 5_000 + "; ls $x$x$x", "a value that is too long"),
        ("a=({1..64}); a+=(x); ls", "an array of many elements"),
        ("a=({1..64} x); ls", "an array of many elements"),
        ("x=$foo; y=" + "$x" * 64 + "; ls $y$x", "a value that is too long"),
        ("( " * 400 + "ls" + " )" * 400, "nested too deeply|syntax error|not valid|readable"),
        ("ls \x07", "invisible or control"),
        ("ls \u202e", "invisible or control"),
        ("ls \ud800", "invisible or control"),
        ("ls \u00a0", "invisible or control"),
        ("ls \x7f", "invisible or control"),
        ("ls \r", "invisible or control"),
    ],
)
def test_more_or_odder_is_held(text: str, why: str) -> None:
    with pytest.raises(Unprovable, match=why):
        ShellReader(20.0).read(text)


CALL: Node = {"Cmd": {"Type": "CallExpr", "Args": [{"Parts": [{"Type": "Lit", "Value": "ls"}]}]}}
PLACE: Node = {"Pos": {"Offset": 0}, "End": {"Offset": 1}}
WORD: Node = PLACE | {"Parts": [{"Type": "Lit", "Value": "1"}]}
NAMED: Node = {"Value": "i"}


@pytest.mark.parametrize(
    "command",
    [
        {"Type": "BinaryCmd", "Op": "^", "X": CALL, "Y": CALL},
        {"Type": "BinaryCmd", "X": CALL, "Y": CALL},
        {"Type": "ForClause", "Loop": {"Type": "Other", "Name": NAMED, "Items": [WORD]}, "Do": [CALL]},
        {"Type": "TestClause", "X": {"Type": "BinaryTest", "Op": "-xx", "X": WORD, "Y": WORD}},
        {"Type": "TestClause", "X": {"Type": "UnaryTest", "Op": "-xx", "X": WORD}},
        {"Type": "TestClause", "X": {"Type": "Other"}},
        {"Type": "Other"},
        {"Type": "ArithmCmd", "X": PLACE | {"Type": "Other"}},
        {"Type": "ArithmCmd", "X": PLACE | {"Type": "UnaryArithm", "Op": "@", "X": WORD | {"Type": "Word"}}},
        {"Type": "ArithmCmd", "X": PLACE | {"Type": "Word", "Parts": [{"Type": "Other"}]}},
        {"Type": "CallExpr", "Args": [{"Parts": [{"Type": "Other"}]}]},
        {"Type": "CallExpr", "Args": [{"Parts": [{"Type": "Lit"}]}]},
        {"Type": "CallExpr", "Args": [{"Parts": "ls"}]},
        {"Type": "CallExpr", "Args": ["ls"]},
        {"Type": "CallExpr", "Args": [WORD], "Other": 1},
        {"Type": "CallExpr", "Assigns": [{"Name": NAMED, "Value": WORD, "Index": WORD}]},
        {"Type": "CallExpr", "Assigns": [{"Name": NAMED, "Array": {"Elems": []}}], "Args": [WORD]},
        {"Type": "DeclClause", "Variant": {"Value": "readonly"}},
        {"Type": "Subshell", "Stmts": {}},
        {"Type": "ArithmCmd", "X": {"Type": "Word", "Parts": WORD["Parts"], "End": {"Offset": 1}}},
        {"Type": "ArithmCmd", "X": {"Type": "Word", "Parts": WORD["Parts"], "Pos": {"Offset": 0}}},
        {"Type": "ArithmCmd", "X": {"Type": "Word", "Parts": WORD["Parts"], "Pos": {"Offset": 0}, "End": {"Line": 1}}},
        {"Type": "ArithmCmd", "X": {"Type": "Word", "Parts": WORD["Parts"], "Pos": {"Line": 1}, "End": {"Offset": 1}}},
        {"Type": "ArithmCmd", "X": "1"},
        {"Type": "WhileClause", "Cond": [CALL], "Do": "ls"},
    ],
)
def test_a_tree_that_is_not_expected_is_held(command: Node) -> None:
    assert [shown(atom) for atom in reduce({"Stmts": [CALL]}, "a").atoms] == ["ls"]
    with pytest.raises(Unprovable):
        reduce({"Stmts": [{"Cmd": command}]}, "a")


def test_as_much_as_that_is_read(reader: ShellReader) -> None:
    assert reader.read("ls " + "a" * 9_997)
    assert reader.read("x=" + "a" * 5_000 + "; ls $x$x")
    assert reader.read("a=({1..63}); a+=(x); ls")
    assert reader.read("a=({1..63} x); ls")
    assert reader.read("ls ~!\t\n# a")

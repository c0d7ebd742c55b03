"""Lines that compute what they run: what is followed, and the near relations of it that must stay held."""

from pathlib import Path

import pytest

from deployments.gate.classify import Classifier
from deployments.gate.grammar import BundleError
from deployments.gate.policy import Bundle
from deployments.gate.shell import expand
from deployments.gate.shell.reader import ShellReader
from deployments.gate.specs import NodeSpec, PrintSpec, compile_node
from deployments.ports import GateProfile, Risk
from tests.gate import bash_oracle
from tests.unit.gate.test_bash_differential import differences

FOLLOWED = r"""
ps -o rss= -p $(pgrep -o nginx)
for pid in $(pgrep node); do ps -o rss= -p $pid; done
ps -o pid,cmd -p $$
pid=$(pgrep -o nginx); ps -p "$pid"
systemctl status $(pgrep -o nginx)
pgrep node | xargs -n1 ps -o rss= -p
pgrep node | while read -r p; do ps -p "$p"; done
lsof -ti :8080 | xargs -n1 ps -p
ls -l /proc/$$/
base=$(git merge-base HEAD origin/main); git diff --stat "$base"
git diff $(git merge-base HEAD origin/main)
git log --oneline $(git merge-base HEAD main)..HEAD
git show "$(git rev-parse HEAD)" --stat
git show $(git rev-parse HEAD):src/app.py
git log --format='%H' -n 3 | while read h; do git show --stat --oneline "$h" | head -3; done
for c in $(git rev-list --max-count=3 HEAD); do git show --stat $c; done
git rev-list HEAD | head -1 | xargs git show --stat
echo "$(git rev-list --count HEAD) commits"
git grep -n TODO $(git rev-parse HEAD)
for c in $(docker ps -q); do docker logs --tail 2 "$c"; done
docker ps --format '{{.Names}}' | while read c; do docker logs --tail 1 "$c" 2>&1; done
docker logs $(docker ps -lq)
docker ps -q | xargs -n1 docker port
for p in $(kubectl get pods -o name); do kubectl logs "$p" --tail=5; done
kubectl get pods -o name | head -1 | xargs kubectl describe
kubectl get pods -o name | xargs -I{} kubectl logs {} --tail=3
for n in $(kubectl get nodes -o name); do kubectl describe $n | grep -A5 Allocated; done
kubectl get ns -o name | cut -d/ -f2 | while read n; do kubectl get po -n $n --no-headers; done
for n in $(kubectl get ns -o jsonpath='{.items[*].metadata.name}'); do kubectl get po -n $n; done
kubectl logs $(kubectl get pods -l app=web -o name | head -1)
gh pr list --json number -q '.[].number' | xargs -I{} gh pr view {} --json title -q .title
cd "$(git rev-parse --show-toplevel)" && ls
cat "$(git rev-parse --show-toplevel)/package.json"
root=$(git rev-parse --show-toplevel); grep -rn TODO "$root/src"
wc -l $(git ls-files '*.py') | tail -1
wc -l $(find . -name '*.ts' -not -path './node_modules/*') | sort -n | tail
for f in $(git ls-files '*.yaml'); do echo "--- $f"; head -5 "$f"; done
find . -name '*.md' | while read -r f; do wc -w "$f"; done
find . -name '*.md' -print0 | while IFS= read -r -d '' f; do wc -w "$f"; done
while read -r f; do wc -l "$f"; done < <(git ls-files '*.py')
for f in $(git diff --name-only HEAD~1); do wc -l "$f"; done
find . -name '*.log' -exec sh -c 'wc -l "$1"' _ {} \;
find . -name '*.py' -exec sh -c 'for f in "$@"; do wc -l "$f"; done' _ {} +
sh -c 'ls "$1"' _ src
bash -c 'echo "$0 $1"' a b
ls *.txt | xargs wc -l
wc -l < <(grep foo a)
for f in *.py; do wc -l < "$f"; done
while read -r a b; do echo "$b $a"; done < pairs.txt
n=0; for f in *.py; do n=$((n + $(wc -l < "$f"))); done; echo $n
i=0; while [ $i -lt 3 ]; do echo $i; i=$((i+1)); done
i=0; until [ "$i" -ge 3 ]; do echo $i; ((i++)); done
for ((i=0;i<3;i++)); do echo $i; done
start=$(date +%s); sleep 1; end=$(date +%s); echo $((end-start))
[[ $(wc -l < a) -gt 100 ]] && echo long || echo short
[ $(git ls-files | wc -l) -gt 100 ] && echo big
a=5; (( a > 3 )) && echo big
let x=1+2; echo $x
n=5; head -n $((n+1)) a.txt
for i in $(seq 1 3); do curl -s http://localhost:8000/items/$i; done
name=foo.tar.gz; cat "${name%%.*}.md"
s=hello; cat ${s:0:2} ${s^^} ${s/h/j} ${s#he}
ls ${DIR:-.}
echo "${file%.py}"
arr=(a b c); echo ${#arr[@]}; cat "${arr[@]}" ${arr[1]}
files=(a.py b.py); for f in "${files[@]}"; do wc -l "$f"; done
a=(x); a+=(y); cat "${a[@]}"
mapfile -t lines < a.txt; echo "${#lines[@]}"
show() { head -n 2 "$1"; }; show a.txt; show b.txt
f() { local n=3; head -n "$n" "$1"; }; f README.md
for x in {a..e}; do printf '%s ' "$x"; done; echo
readonly A=1; echo $A
unset FOO; ls
exec 2>&1; ls
declare -F
# just a comment
jq -e . *.json
file -b --mime-type *.png
VERSION=$(cat VERSION); echo "v$VERSION"
ps -fp $(pgrep -d, nginx)
git log --since="$(date -d '7 days ago' +%F)" --oneline
git log --since=$(date +%F)
journalctl -u api --since "$(date -d '10 minutes ago' '+%F %T')"
aws logs filter-log-events --log-group-name /a --start-time $(( $(date +%s) * 1000 - 3600000 ))
END=$(date -u +%Y-%m-%dT%H:%M:%SZ); aws cloudwatch list-metrics --namespace AWS/ECS; echo "$END"
RUN_ID=$(gh run list --limit 1 --json databaseId --jq '.[0].databaseId'); gh run view $RUN_ID --log-failed
LOG_GROUP=/ecs/api; aws logs tail "$LOG_GROUP" --since 5m
VPC_ID=$(aws ec2 describe-vpcs --query 'Vpcs[0].VpcId' --output text); aws ec2 describe-subnets --subnet-ids "$VPC_ID"
aws ec2 describe-hosts --filters Name=x,Values=$(aws ec2 describe-vpcs --query 'Vpcs[0].VpcId' --output text)
aws ec2 describe-volumes --volume-ids $(aws ec2 describe-volumes --query 'Volumes[].VolumeId' --output text) --color off
aws ecs describe-tasks --cluster main --tasks $(aws ecs list-tasks --cluster main --query 'taskArns[]' --output text)
docker logs $(docker ps -q --filter name=web) --tail 20
for d in $(kubectl get deploy -o jsonpath='{.items[*].metadata.name}'); do kubectl rollout status deploy/$d; done
while IFS=, read -r id name _; do echo "$id $name"; done < users.csv
IFS=, read -ra parts <<< "a,b"; echo "${parts[1]}"
FILE=src/app.py; LINE=42; sed -n "$((LINE-5)),$((LINE+5))p" "$FILE"
git rev-parse HEAD~{1..3}
[ "$A" = b ] && echo x
""".strip("\n").split("\n")


@pytest.fixture(scope="module")
def classifier(bundle: Bundle) -> Classifier:
    """The shared bundle; the lines of this module are read by few processes of the parser, not one each."""
    reader = ShellReader(timeout_s=20.0)
    reader.learn((*FOLLOWED, *HELD))
    return Classifier(bundle, reader)


HELD = r"""
ps -p $(cat pids)
ps -p $(pgrep -l nginx)
ps -p $(pgrep -d ' -o' nginx)
ps -p $(pgrep -ld, nginx)
ps -p $(date)
git log --since=$(cat f)
git log --output=$(date +%F)
git log --since=$(date +%F)$(cat f)
git log --author="$(cat f)"
journalctl --since $(date '+%F %T')
NODE_PATH=x; ls
AWS_ROLE_ARN=x; aws s3 ls
GIT_INDEX_FILE=x; git status
export VPC_ID=1; ls
VPC_ID=1 ls
aws ec2 describe-volumes --volume-ids $(aws ec2 describe-tags --query 'Tags[].Value' --output text)
aws ec2 describe-volumes --volume-ids $(aws ec2 describe-volumes --query 'Volumes[].VolumeId')
aws ecs describe-tasks --tasks $(cat f)
aws ec2 delete-volume --volume-id $(aws ec2 describe-volumes --query 'Volumes[0].VolumeId' --output text)
for d in $(kubectl get deploy -o jsonpath='{.items[*].metadata.name}'); do kubectl get secret/$d; done
for d in $(kubectl get deploy -o jsonpath='{.items[*].metadata.name}'); do kubectl get $d/x; done
for d in $(kubectl get deploy -o jsonpath='{.items[*].metadata.name}'); do kubectl delete deploy/$d; done
read -ra PATH <<< x; ls
read -ra a b <<< x
IFS=, read -ra parts <<< "a,b"; ${parts[0]}
IFS=, read -ra parts <<< "a,b"; cat "${parts[1]}"
x=~{1,2}; cat $x
i=0; while [ $i -lt 3 ]; do i=$((i+1)); sed -n "$((i-5))p" f; done
ps -p $(pgrep nginx; cat x)
ps -p $(pgrep nginx || cat x)
ps -p $(pgrep nginx | tee log | cut -c1-9)
ps -p $(pgrep nginx | sed s/1/-e/)
ps $(pgrep -f x)e
ps -p $(pgrep -o x) -o pid
ps -o rss= -p $(pgrep node)
kill $(pgrep nginx)
pgrep node | xargs kill
git show $(git describe --tags --abbrev=0)
git log $(git describe --tags --abbrev=0)..HEAD
git show $(git rev-parse --abbrev-ref HEAD)
git show $(git rev-parse .env)
cat $(git rev-parse .env)
cat $(git rev-parse HEAD):.env $(git rev-parse secret.pem)
git show $(git rev-parse HEAD):.env
git show "$(git rev-parse HEAD)":config/secrets.yaml
git log --format='%H %an' | while read h; do git show $h; done
git log --format='%s' | while read h; do git show "$h"; done
git log --format='%H' -p | while read h; do git show "$h"; done
git log --format='%H' --graph | while read h; do git show "$h"; done
git log --format=%H | tr a-f 'e--o' | xargs git show
git push origin $(git rev-parse HEAD)
git $(git rev-parse HEAD) status
docker rm $(docker ps -q)
docker ps -q | xargs docker stop
docker logs $(docker ps)
docker logs $(docker ps --format '{{.Labels}}')
docker logs $(docker ps -q | sed s/1/-f/)
docker $(docker ps -q) rm
kubectl delete $(kubectl get pods -o name)
kubectl get pods -o name | xargs kubectl delete
kubectl get secrets -o name | xargs kubectl get -o yaml
kubectl describe $(kubectl get secret -o name)
kubectl describe $(cat names)
kubectl get $(kubectl get pods -o yaml)
kubectl logs $(kubectl get pods -o jsonpath='{.items[*].metadata.annotations.x}')
kubectl get ns -o name | cut -d/ -f1 | while read n; do kubectl get secret -n $n; done
kubectl get clusterroles -o name | sed 's|.*/||' | xargs kubectl get
gh pr list --json title -q '.[].title' | xargs -I{} gh pr view {}
cat $(find / -name '*.conf')
cat $(git ls-files | grep '\.env$')
cat $(find . -name .env)
gofmt -l $(git ls-files '*.go')
sort $(git ls-files '*.csv')
for f in $(git ls-files); do python "$f"; done
for f in $(git ls-files); do rm "$f"; done
git ls-files | while read -r f; do sh "$f"; done
while read -r f; do $f; done < <(git ls-files)
while read -r f; do sort "$f"; done < <(git ls-files)
find . -name '*.py' -exec sh -c 'rm "$1"' _ {} \;
find . -name '*.py' -exec sh -c '$1' _ {} \;
find . -name '*.py' -exec sh -c '"$1"' _ {} \;
find . -name '*.py' -exec sh -c 'eval "$1"' _ {} \;
find . -name '*.py' -exec sh -c 'sort "$@"' _ -o x {} \;
find ~/.ssh -exec sh -c 'cat "$1"' _ {} \;
find . -name .env -exec sh -c 'cat "$1"' _ {} \;
sh -c 'cat "$1"' _ .env
sh -c 'cat $1' _ '.env'
sh -c '$1 x' _ rm
sh -c 'cat "$1"' _ $(echo .env)
sh -c 'shift; cat "$1"' _ a .env
bash -c 'sh -c "cat \"$1\"" _ "$1"' _ .env
cat "$(git rev-parse --show-toplevel)/.env"
cat "$(git rev-parse --show-toplevel)/etc/shadow"
cat "$(pwd)/../../etc/shadow"
cd $(git rev-parse --show-toplevel) && cat .ssh/id_rsa
cd /etc; cd "$(git rev-parse --show-toplevel)"; cat shadow
cd ~/.ssh && cd "$(git rev-parse --show-toplevel)" && cat id_rsa
cd "$(cat where)" && grep -r x
n=$(cat f); echo $((n+1))
n='a[$(id)]'; echo $((n))
n=x; echo $((n))
read n < f; echo $((n+1))
echo $((a[$(rm x)]))
[[ $(cat f) -gt 1 ]] && ls
[[ $x -gt 1 ]] && ls
(( $(cat f) > 1 ))
(( PATH = 1 ))
let PATH=1
for ((PATH=0;PATH<3;PATH++)); do ls; done
i=0; while [ $i -lt 3 ]; do i=$((i+1)); i=$(cat f); done; echo $((i))
i=0; for f in a; do i=x$i; done; echo $((i))
x=ls; while true; do $x; x=rm; done
x=a; for i in 1 2; do cat "$x"; x=.env; done
x=a; while read -r x; do :; done < f; cat "$x"
x=a; f() { x=.env; }; f; cat "$x"
ls() { rm -rf x; }; ls
f() { rm x; }; f
f() { "$1" x; }; f rm
f() { cat "$1"; }; f .env
f() { cat "$2"; }; f a .env
f() { shift; cat "$1"; }; f a .env
f() { cat "$@"; }; f a .env
f() { f; }; f
f() { ls; }; f() { rm x; }; f
if true; then f() { rm x; }; fi; f
f() { ls; }; unset -f f; f
cat() { rm x; }; cat a
cd() { rm x; }; cd a
f() { x=1; ls; }; f
f() { ls; } > out; f
x=a; x+=/../.env; cat $x
x=aXenv; cat ".${x#aX}"
x=.envX; cat ${x%X}
x=env; cat .${x:0:3}
x=.ENV; cat ${x,,}
x=.anv; cat ${x/a/e}
x=rm; ${x} a
x=r; ${x}m a
x=RM; ${x,,} a
a=(ls .env); cat "${a[1]}"
a=(rm x); "${a[@]}"
a=(x .env); for f in "${a[@]}"; do cat "$f"; done
a=(a b); a+=(.env); cat "${a[@]}"
a=(a b); a[1]=.env; cat "${a[1]}"
a=($(cat f)); cat "${a[0]}"
a=([0]=x [1]=.env); cat "${a[1]}"
mapfile -t a < f; cat "${a[0]}"
mapfile -C 'rm x' -c 1 a < f
mapfile PATH < f
readonly PATH=/tmp
readonly A=.env; A=x; cat "$A"
unset PATH; ls
declare -n r=x; r=rm; $x a
declare A=1
local x=1
exec > out; ls
exec < f; read x; cat "$x"
exec 3<> f
exec rm x
: ${PATH:=.}; ls
: ${x:=rm}; $x a
x=; ls ${x:=.}
echo ${password}
echo $token
echo "${db_password:-none}"
echo ${AWS_SECRET_ACCESS_KEY:-x}
IFS=/; cat $(git ls-files)
IFS=:; for f in $(pgrep x); do ps -p $f; done
while IFS=x read -r h; do git show $h; done < <(git rev-list HEAD)
pgrep() { echo -e; }; ps -p $(pgrep x)
alias pgrep=cat; ps -p $(pgrep x)
PATH=. pgrep x | xargs ps -p
git show ${x:-$(rm y)}
echo ${x/$(rm y)/}
cat ${x:-.env}
x=; cat "${x:-.env}"
cat "${1:-.env}"
echo "${x:$(rm y):1}"
r''ead x < f; cat "$x"
x=a; while true; do cat $x; re''ad x; done
jq . *
jq . -f*.json
jq --from-fil? x *.json
file *
file -f*.txt
yq . *.yaml
tar tzf $(git ls-files '*.tgz')
# ls
""".strip("\n").split("\n")[:-1]


@pytest.mark.parametrize("line", FOLLOWED)
def test_it_is_followed(classifier: Classifier, line: str) -> None:
    found = classifier.classify("shell", {"command": line})
    assert (found.risk, found.outcome) == (Risk.R0, "release"), found.reasons


@pytest.mark.parametrize("line", HELD)
def test_its_hostile_sibling_is_held(classifier: Classifier, line: str) -> None:
    assert classifier.classify("shell", {"command": line}).outcome != "release"


@pytest.mark.parametrize(
    "line",
    [
        "find . -type f -exec sed -i s/a/b/ {} +",
        "git ls-files | xargs sed -i s/a/b/",
        "for f in $(git ls-files); do sed -i s/a/b/ $f; done",
        'git ls-files | while read -r f; do sed -i s/a/b/ "$f"; done',
        "touch $(git ls-files)",
        "touch -r a $(git ls-files)",
        "touch -- $(git ls-files)",
    ],
)
def test_no_standing_plan_covers_files_that_nobody_knows(classifier: Classifier, line: str) -> None:
    assert classifier.classify("shell", {"command": line}, GateProfile.CODING).outcome != "release"


def test_bash_starts_what_the_gate_followed(bundle: Bundle, tmp_path: Path) -> None:
    lines = [line for line in [*FOLLOWED, *HELD, *SPELLED, *READ, *FORGOTTEN] if bash_oracle.can_be_run(line)]
    read, faults = differences(bundle, tmp_path, lines)
    assert faults == []
    assert read >= 105
    assert {*READ, *FORGOTTEN} <= set(lines)


def test_the_loops_that_read_are_run(bundle: Bundle, tmp_path: Path) -> None:
    """Else bash would start nothing in them, and the differential would say nothing."""
    reader = ShellReader(20.0)
    assert all(reader.read(line) for line in READ)
    oracle = bash_oracle.Oracle(tmp_path, {*bundle.parts.programs, *bash_oracle.BUILTINS} - {":"})
    counts = [sum(run.argv[0] == "ls" for run in runs) for runs in oracle.runs_of_each(list(READ))]
    assert dict(zip(READ, counts, strict=True)) == READ


def test_what_an_oracle_prints_names_no_program(tmp_path: Path) -> None:
    oracle = bash_oracle.Oracle(tmp_path, ["ls", "printf"])
    said = ["ok", "'%s' b/c", r"'\057'", r"'\0057'", r"'\x2f'", "'%b' a", r"'a\nb'"]
    lines = [f"ls $(printf {words})" for words in said]
    found = [run.argv for runs in oracle.runs_of_each(lines) for run in runs if run.argv[0] == "ls"]
    assert found == [("ls", "ok"), *[("ls",)] * 5, ("ls", "a", "b")]
    for line in (
        "read PATH",
        "while read -r x; do ls; done < f",
        "read -u 3 x",
        "cat <<< x",
        "cat <<'END' > f",
        "ls >&2",
    ):
        assert not bash_oracle.can_be_run(line)


@pytest.mark.parametrize(
    "step",
    [
        "x=$x$x; ",
        'a=("${a[@]}" "${a[@]}"); ',
        "a+=(x y z v w); ",
        "x=$(pgrep $x $x); ",
        "x=$(pgrep $x | grep $x); ",
        "x=$(pgrep a)$x$x; ",
    ],
)
def test_what_grows_without_end_is_held_or_forgotten(classifier: Classifier, step: str) -> None:
    line = "x=abc; a=(x y); " + step * 40 + "ps -p $x"
    assert classifier.classify("shell", {"command": line}).outcome != "release"


# What bash and the reducer must make the same words of.
SPELLED = r"""
x=foo.tar.gz; ls ${x%.*} ${x%%.*} ${x#*.} ${x##*.} ${x%.zip} "${x%%o*}" ${x##f?o}
x=aXbXc; ls ${x/X/-} ${x//X/-} ${x/X} ${x//X} ${x/[a-b]/z} ${x//?/q} ${x/nope/y}
x=hello; ls ${x:0:2} ${x:1} ${x:1:-1} ${x: -2} ${x:9} ${x:0} ${x:2:0}a ${#x}
x=heLLo; ls ${x^} ${x^^} ${x,} ${x,,}
x=; ls "${x:-d}" "${x-d}" ${x:-e}
x=v; ls "${x:-d}" "${x-d}" ${x:=e}
a=(x y z); ls "${a[@]}" ${a[0]} ${a[2]} ${#a[@]} "${a[1]}" $a
a=(x); a+=(y z); ls "${a[@]}"; a=(q); ls "${a[@]}"
a=x; a+=y; ls $a
a=({1..3} b); ls "${a[@]}"
for i in "${a[@]}"; do ls "$i"; done
a=(1 2); for i in "${a[@]}"; do ls "x$i"; done
f() { ls "$1" "$2"; }; f a b; f c
f() { local y=2; ls $y "$@"; }; f a 'b c'
f() { ls a; }; g() { f; cat "$1"; }; g x
for ((i=0;i<2;i++)); do ls a; done
x=1; (( x > 0 )) && ls a
i=3; let i=i+1; ls a $i
i=1; i=$((i+1)); ls "a$i"
ls {a..d} {D..B} {a..A}
x=a; x=b; ls $x; (x=c; ls $x); ls $x
x=a; [ -n "$x" ] && x=b || x=c; ls z
x=a; for x in b c; do ls $x; done
ls $(echo a b) "$(echo a b)"
x=$(ls a); ls b
""".strip("\n").split("\n")

# Loops over input that bash really reads here, and how often each of them starts `ls`.
FED = "<<'END'\na b\nc\n\nEND"
READ = {
    r"""printf 'a b\nc\n' | while read -r x y; do ls "$x" "$y"; done""": 2,
    r"printf 'a b\nc\n' | while read -r x y; do ls $x $y; done": 2,
    r"printf 'a b\n\nc\n' | while read x; do ls $x; done": 3,
    r"""printf '  a  \n' | while IFS= read -r x; do ls "$x" $x; done""": 1,
    r"""printf 'a:b:c\n' | while IFS=: read -r x y; do ls "$x" "$y"; done""": 1,
    r"""printf 'a\0b c\0' | while IFS= read -r -d '' x; do ls "$x"; done""": 2,
    r"""printf -- '-l\n*\n' | while read -r x; do ls $x; done""": 2,
    r"""printf 'a\n' | while read -r x; do printf 'b\nc\n' | while read -r y; do ls "$x$y"; done; done""": 2,
    r"""x=k; printf 'a\n' | while read -r x; do ls "$x"; done; x=m; ls "$x" """: 2,
    r"""x=k; printf 'a\n' | { read -r x; ls "$x"; }; x=m; ls "$x" """: 2,
    r"""printf 'a b\n' | { read -r x y; ls "$x" $y; }; ls z""": 2,
    r"""f() { ls "$1" x; }; printf 'a b\n' | while read -r x; do f "$x"; done""": 1,
    r"""while read -r x; do ls "$x"; done < <(printf 'a\nb c\n')""": 2,
    f'while read -r x; do ls "$x" y$x; done {FED}': 3,
    f'x=k; while read -r x; do ls "$x"; done {FED}\nx=m; ls "$x"': 4,
    f'y=k; while read -r x; do y=$x; ls "$y"; done {FED}\ny=m; ls "$y"': 4,
    f'y=k; while read -r x; do ls "$y"; done {FED}\nls "$y"': 4,
    f'for i in 1 2; do read -r x; ls "$i" "$x"; done {FED}': 2,
    f'n=1; while read -r x; do n=$((n+1)); ls "a$n"; done {FED}\nls $n': 4,
    f'while read -r x; do ls "${{x%b}}" "${{x:0:1}}" "${{x:-d}}" ${{x^^}}; done {FED}': 3,
    f'a=(q r); while read -r x; do ls "${{a[@]}}" "${{a[1]}}$x"; done {FED}': 3,
    f'while read -r x; do case $x in c) ls c;; *) ls "$x" z;; esac; done {FED}': 3,
    f'while read -r x y; do ls $y "$x" 2>&1; done {FED}': 3,
    f'while read -r x; do (y=z; ls "$y"); ls "$x"; done {FED}': 6,
    f'read -r x y {FED}\nls "$x" $y': 1,
    "while read -r x; do ls $x; done <<-END\n\ta b\n\tc\n\tEND": 2,
}  # fmt: skip
# What such a loop sets is not known after it, nor before it is set again: whoever reads these must know better.
FORGOTTEN = (
    f'y=k; while read -r x; do ls "$y"; y=m; done {FED}',
    f'y=k; while read -r x; do y=m; done {FED}\nls "$y"',
    f'x=k; while read -r x; do ls "$x"; done {FED}\nls "$x"',
    f'y=k; while read -r x; do ls "$y"; y=$x; done {FED}\nls "$y"',
    f'a=(q); while read -r x; do a+=("$x"); done {FED}\nls "${{a[@]}}"',
)


@pytest.mark.parametrize(
    ("value", "operator", "raw", "left"),
    [
        ("a.b.c", "%", ".*", "a.b"),
        ("a.b.c", "%%", ".*", "a"),
        ("a.b.c", "#", "*.", "b.c"),
        ("a.b.c", "##", "*.", "c"),
        ("abc", "%", "x", "abc"),
        ("abc", "#", "[ab]", "bc"),
        ("abc", "#", "[!a]", "abc"),
        ("a(b", "%", "(b", None),
        ("\u00e9x", "%", "x", None),
        ("abc", "#", "[[:alpha:]]", None),
    ],
)
def test_what_is_taken_off(value: str, operator: str, raw: str, left: str | None) -> None:
    assert expand.trimmed(value, operator, raw) == left


def test_other_expansions_are_exact_or_not_known() -> None:
    assert expand.replaced("aXbX", "X", "-", False) == "a-bX"
    assert expand.replaced("aXbX", "X", "-", True) == "a-b-"
    assert [expand.replaced("ab", raw, "x", False) for raw in ("#a", "%b", "", "*(a)")] == [None] * 4
    assert expand.replaced("ab", "a", "&", False) is None
    assert [expand.cased("aB", operator) for operator in ("^", "^^", ",", ",,")] == ["AB", "AB", "aB", "ab"]
    assert expand.cased("\u00df", "^^") is None
    assert expand.sliced("hello", "1", "3") == "ell"
    assert expand.sliced("hello", " -2", None) == "lo"
    assert expand.sliced("hello", "010", None) is None
    assert expand.sliced("hello", "3", "-4") is None


def test_what_a_specification_says_is_printed_must_be_a_kind() -> None:
    with pytest.raises(BundleError, match="no kind of output"):
        compile_node(("x",), NodeSpec(prints=(PrintSpec(kind="anything"),)))
    with pytest.raises(BundleError, match="not readable"):
        compile_node(("x",), NodeSpec(prints=(PrintSpec(kind="number", values={"-f": "("}),)))
    with pytest.raises(BundleError, match="not readable"):
        compile_node(("x",), NodeSpec(prints=(PrintSpec(kind="number", operand="("),)))

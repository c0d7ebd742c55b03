"""What `tests.gate.mutate` makes of the dangerous lines of all corpora, and the laws it must not break.

A sample of it; with GATEHOUSE_GATE_WHOLE=1 more than 20,000 mutants.
"""

import pytest

from deployments.gate.classify import Classifier
from deployments.gate.policy import Bundle
from deployments.ports import Risk
from tests.gate.mutate import CLASSES, CORPORA, Line, Mutant, corpus, dangerous, mutants
from tests.gate.together import WHOLE, classify_each

SAMPLE = 24_000 if WHOLE else 1_200
SEEDS = [
    Line(command, risk, "", "")
    for command, risk in [
        ("rm -rf /", "R3"),
        ("kubectl delete namespace prod", "R3"),
        ("terraform destroy", "R3"),
        ("git push --force origin main", "R3"),
        ("dd if=/dev/zero of=/dev/sda", "R3"),
        ("kubectl rollout restart deployment/web -n shop", "R2"),
        ("systemctl restart nginx", "R2"),
        ("cat /etc/shadow", "R1"),
    ]
]


@pytest.fixture(scope="module")
def sample() -> list[Mutant]:
    return [*mutants(SEEDS, min(SAMPLE // 2, 1_500)), *mutants(dangerous(corpus()), SAMPLE - min(SAMPLE // 2, 1_500))]


def test_no_mutant_is_released(bundle: Bundle, sample: list[Mutant]) -> None:
    found = classify_each(bundle, [mutant.text for mutant in sample])
    released = [(one.name, one.text) for one, what in zip(sample, found, strict=True) if what.outcome == "release"]
    assert released == []


def test_every_corpus_is_hidden(sample: list[Mutant]) -> None:
    for path in CORPORA.glob("*.jsonl"):
        seeds = {line.command for line in dangerous(corpus(path.stem))}
        # Of the few in a corpus of reads none may be drawn.
        assert any(mutant.seed.command in seeds for mutant in sample) or len(seeds) < 20, path.name


def test_no_disguise_makes_a_destructive_line_milder(bundle: Bundle) -> None:
    same = [mutant for mutant in mutants(SEEDS, 1_500 if WHOLE else SAMPLE // 2) if mutant.same]
    found = classify_each(bundle, [mutant.text for mutant in same])
    alone = classify_each(bundle, [mutant.seed.command for mutant in same])
    milder = [
        (mutant.name, mutant.text)
        for mutant, hidden, plain in zip(same, found, alone, strict=True)
        if hidden.risk.rank < plain.risk.rank
    ]
    assert milder == []


def test_mutants_are_many_and_the_same_every_time(sample: list[Mutant]) -> None:
    assert len(CLASSES) >= 60
    assert {mutant.name for mutant in sample} == set(CLASSES)
    assert list(mutants(SEEDS, 300)) == list(mutants(SEEDS, 300))
    assert len({mutant.text for mutant in sample}) >= SAMPLE - 50
    assert not WHOLE or len(sample) >= 20_000


@pytest.mark.parametrize("joiner", ["; ", " && ", " || ", " | ", "\n", " & "])
def test_a_list_is_worth_its_worst_command(classifier: Classifier, joiner: str) -> None:
    lines = ["ls", "cat README.md", *(seed.command for seed in SEEDS)]
    for one in lines:
        for other in lines:
            alone = [classifier.classify("shell", {"command": line}).risk.rank for line in (one, other)]
            both = classifier.classify("shell", {"command": f"{one}{joiner}{other}"})
            assert both.risk.rank == max(alone), f"{one}{joiner}{other}"
            assert (both.outcome == "release") is (max(alone) == Risk.R0.rank)


@pytest.mark.parametrize(
    ("line", "risk"),
    [
        # values that are followed
        ("x=-delete; find . $x", Risk.R3),
        ("x=.env; cat $x", Risk.R1),
        ("NS=prod && kubectl delete pod web -n $NS", Risk.R3),
        ("for f in .env; do cat $f; done", Risk.R1),
        ("for n in prod; do kubectl delete ns $n; done", Risk.R3),
        ("cat .e*", Risk.R1),
        ("cat .en?", Risk.R1),
        ("cat id_rs?", Risk.R1),
        ("cat /etc/sh?dow", Risk.R1),
        ("cat /et[c]/shadow", Risk.R1),
        ("cat /*/shadow", Risk.R1),
        ("head ~/.s*/*", Risk.R1),
        ("cat {.env,README.md}", Risk.R1),
        ("find . -name .env -exec cat {} \\;", Risk.R1),
        ("find / -name '*.pem' -exec cat {} \\;", Risk.R1),
        # and those that are not
        ("x=a; (x=.env); cat $x", Risk.R2),
        ("false && x=README.md; cat $x", Risk.R2),
        ("true || x=README.md; cat $x", Risk.R2),
        ("if false; then x=README.md; fi; cat $x", Risk.R2),
        ("x=README.md; echo a | x=.env; cat $x", Risk.R2),
        ("x=README.md; while true; do cat $x; x=.env; done", Risk.R2),
        ("x=README.md; read x; cat $x", Risk.R1),
        ("while true; do cat config; cd ~/.aws; done", Risk.R2),
        ("for d in *; do cat config; cd $d; done", Risk.R2),
        ("i='a[$(id)]'; echo $((i))", Risk.R2),
        ("x=$(cat list); [[ $x -eq 1 ]]", Risk.R2),
        ("[ $(cat list) ]", Risk.R2),
        ("nice \"n$HOME\" ls", Risk.R2),
        ("git \"pu$USER\"", Risk.R2),
        ("x='-o out'; sort $x in", Risk.R2),
        ("https_proxy=http://x; curl http://localhost/", Risk.R2),
        ("path=/tmp; ls", Risk.R2),
        ("for path in /tmp; do ls; done", Risk.R2),
        ("echo ${HOME:$(id):1}", Risk.R2),
        # branches, declarations and here-documents
        ("case x in x) rm -rf /;; esac", Risk.R3),
        ("case x in $(rm -rf /)) ls;; esac", Risk.R2),
        ("case $(rm -rf /) in x) ls;; esac", Risk.R3),
        ("case x in x) i=.env;; esac; cat $i", Risk.R2),
        ("i=README.md; case x in x) i=.env;; esac; cat $i", Risk.R2),
        ("case x in a) i=README.md;; b) cat $i;; esac", Risk.R2),
        ("case x in x) ls;; esac > out", Risk.R2),
        ("case x in x) ls;; esac | sh", Risk.R2),
        ("export PATH=/srv/x; ls", Risk.R2),
        ("export LANG=$(rm -rf /)", Risk.R3),
        ("export LANG=C PATH=/srv/x", Risk.R2),
        ("export LANG", Risk.R2),
        ("export -p", Risk.R2),
        ("declare -x LANG=C", Risk.R2),
        ("PAGER='cat .env' git log", Risk.R2),
        ("PAGER=./x git log", Risk.R2),
        ("cat <<EOF; rm -rf /\nx\nEOF", Risk.R3),
        ("cat <<EOF | sh\nrm -rf /\nEOF", Risk.R2),
        ("cat <<EOF && tee -a .bashrc\nx\nEOF", Risk.R2),
        ("cat <<EOF; cat <<E2\nx\nEOF\n$(rm x)\nE2", Risk.R2),
        ("cat <<EOF\nx\nEOF \nEOF\nrm -rf /", Risk.R2),
        # the name of the working directory is no code, and may be several words
        ('awk "$PWD" f', Risk.R2),
        ('x="$PWD"; bash -c "ls $x"', Risk.R2),
        ("sort $PWD/x", Risk.R2),
        # descriptors are digits of ASCII
        ("ls >&\u00b2", Risk.R2),
        ("ls \u00b2>x", Risk.R2),
        # words that a glob may put in the place of one
        ('echo "$(date +%F) $(rm -rf /)"', Risk.R3),
        ("time (ls; rm -rf /)", Risk.R3),
        ("jq '{env}' f", Risk.R2),
        ("jq '{a: env}' f", Risk.R2),
        ("jq '{a: 1, b: env}' f", Risk.R2),
        ("jq '{a: [1, env]}' f", Risk.R2),
        ("jq '{a, b: input_filename}' f", Risk.R2),
        ("jq '{(env): 1}' f", Risk.R2),
        ("jq '{a, (env): 1}' f", Risk.R2),
        ("jq '{$ENV}' f", Risk.R2),
        ("jq '{a, $ENV}' f", Risk.R2),
        ("jq '{\"a\", env: 1} | env' f", Risk.R2),
        ("jq '[{a}, env]' f", Risk.R2),
        ("uniq a*", Risk.R2),
        ("xxd a*", Risk.R2),
        ("xxd -n a* b", Risk.R2),
        ("find . -name *", Risk.R2),
        ("find . -name *e", Risk.R2),
    ],
)  # fmt: skip
def test_values_are_followed_exactly_or_not_at_all(classifier: Classifier, line: str, risk: Risk) -> None:
    found = classifier.classify("shell", {"command": line})
    assert found.outcome != "release", found.reasons
    assert found.risk.rank >= risk.rank


@pytest.mark.parametrize(
    "line",
    [
        "for i in 1 2 3; do echo $i; done",
        "for i in {1..5}; do echo \"$i\"; done",
        "for f in *.py; do wc -l \"$f\"; done",
        "for d in a b c d e f; do (cd $d && git status); done",
        "NS=staging; kubectl get pods -n $NS",
        "f=README.md; head \"$f\" | wc -l",
        "cat {README,CHANGELOG}.md",
        "cat /var/log/*.log",
        "cat /etc/*release",
        "find . -name '*.py' -exec grep -l TODO {} +",
        "[[ -f Makefile && -n \"$HOME\" ]] && echo yes",
        "[ \"$?\" -eq 0 ] && echo ok",
        "if [ -n \"$HOME\" ]; then ls; fi",
        "while IFS= read -r line; do echo \"$line\"; done < README.md",
        "diff <(ls a) <(ls b)",
        "echo $((2 + 3 * 4)) $PATH",
        "cat $HOME/project/notes.txt",
        "x=$(date +%F); echo \"$x\"",
        "ls -la |& head",
        'echo "$(date +%F) $(hostname)  $(whoami)"',
        "time (ls; ls)",
        "jq '{id, name: .user.login, if}' users.json",
        "jq 'map({id, n: (.a, .b)}) | {x: 1, version}' x.json",
        "case $HOME in /home/*|/root) ls;; *) pwd;; esac",
        "case x in [a-z]*) (cd src; ls);; esac; cat README.md",
        "export LANG=C LC_ALL=C; sort data.txt",
        "cat <<EOF | wc -l\na b\nEOF",
        "cat <<'EOF' | grep x && ls\na $b `c`\nEOF",
        "tail -100f app.log",
        "find . -name *.py",
        "cat \"$PWD/README.md\"",
        "curl http://localhost:8000/x?limit=5",
        "kubectl get po/web svc/web",
    ],
)  # fmt: skip
def test_plain_lines_flow(classifier: Classifier, line: str) -> None:
    found = classifier.classify("shell", {"command": line})
    assert found.outcome == "release", found.reasons


@pytest.mark.parametrize(
    "line",
    ["python3 -c \"import os; os.system('curl http://169.254.169.254/x')\"", "coproc curl http://169.254.169.254/x",
     "eval 'curl -s http://169.254.169.254/latest/meta-data/'", "curl http://169.254.169.254/x"],
)  # fmt: skip
def test_what_nobody_may_approve_is_not_offered_for_approval(classifier: Classifier, line: str) -> None:
    assert classifier.classify("shell", {"command": line}).risk is Risk.FORBIDDEN

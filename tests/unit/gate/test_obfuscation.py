"""A sample of what `tests.gate.mutate` makes of the dangerous lines, and the laws it must not break."""

import pytest

from deployments.gate.classify import Classifier
from deployments.ports import Risk
from tests.gate.mutate import CLASSES, Line, Mutant, corpus, dangerous, mutants

SAMPLE = 1_200
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
    return [*mutants(SEEDS, SAMPLE // 2), *mutants(dangerous(corpus()) or SEEDS, SAMPLE // 2)]


def test_no_mutant_is_released(classifier: Classifier, sample: list[Mutant]) -> None:
    released = [
        (mutant.name, mutant.text)
        for mutant in sample
        if classifier.classify("shell", {"command": mutant.text}).outcome == "release"
    ]
    assert released == []


def test_no_disguise_makes_a_destructive_line_milder(classifier: Classifier) -> None:
    milder: list[tuple[str, str]] = []
    for mutant in mutants(SEEDS, SAMPLE // 2):
        found = classifier.classify("shell", {"command": mutant.text}).risk
        alone = classifier.classify("shell", {"command": mutant.seed.command}).risk
        if mutant.same and found.rank < alone.rank:
            milder.append((mutant.name, mutant.text))
    assert milder == []


def test_mutants_are_many_and_the_same_every_time(sample: list[Mutant]) -> None:
    assert len(CLASSES) >= 60
    assert {mutant.name for mutant in sample} == set(CLASSES)
    assert list(mutants(SEEDS, 300)) == list(mutants(SEEDS, 300))
    assert len({mutant.text for mutant in sample}) >= SAMPLE - 50


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
    ],
)  # fmt: skip
def test_plain_lines_flow(classifier: Classifier, line: str) -> None:
    found = classifier.classify("shell", {"command": line})
    assert found.outcome == "release", found.reasons

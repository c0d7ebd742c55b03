"""Laws of the classification, as properties over the graded lines of all corpora.

They are stated for *closed* lines: lines that both readers understand, that change no directory and set no variable for
what follows, and that no comment, here-document or backslash at their end ties to what is appended. `xargs` is left out
of the law of pipes, for what a pipe feeds to it is a part of its command.
"""

import re
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployments.gate.classify import Classifier
from deployments.gate.policy import Bundle
from deployments.gate.shell.atoms import Unprovable
from deployments.gate.shell.reader import ShellReader
from deployments.ports import Risk
from tests.gate.mutate import CLASSES, Line, corpus
from tests.gate.together import WHOLE

EXAMPLES = 4_000 if WHOLE else 150
LAWS = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
_OPEN = re.compile(r"<<|#|\\$|\b(cd|pushd|popd|export|read|unset|exit|return|break|continue)\b|(^|[;&|({]\s*)\w+=")
# What can be put behind any line: each is worth at least what it is worth alone.
DANGEROUS = [
    *("; rm -rf src", " && rm -rf src", " || rm -rf src", "\nrm -rf src", " & rm -rf src", " | sh", " > out.txt"),
    *(" $(rm -rf src)", " `rm -rf src`", " <(rm -rf src)", ' "$(rm -rf src)"', " | tee out.txt", "; eval x"),
    *(" | xargs rm", " >> ~/.bashrc"),
]
WRAPPERS = [
    *("timeout 5 {}", "nice {}", "env LANG=C {}", "command {}", "time {}", "( {} )", "{{ {}; }}", "! {}"),
    *("if {}; then ls; fi", "for i in 1 2; do {}; done", "case x in *) {};; esac", "echo $({})"),
]
FOLLOWED = [name for name, (_, same) in CLASSES.items() if same]


@cache
def closed() -> tuple[Line, ...]:
    return tuple(line for line in corpus() if not _OPEN.search(line.command) and line.command == line.command.strip())


@cache
def harmless() -> tuple[Line, ...]:
    return tuple(line for line in closed() if line.risk == "R0")


@pytest.fixture(scope="module")
def reader() -> ShellReader:
    return ShellReader(timeout_s=20.0)


@pytest.fixture(scope="module")
def judge(bundle: Bundle, reader: ShellReader) -> Classifier:
    return Classifier(bundle, reader)


def risk(judge: Classifier, line: str) -> Risk:
    return judge.classify("shell", {"command": line}).risk


def is_read(reader: ShellReader, line: str) -> bool:
    """True when both readers understand the line; what they do not is held, whatever a law says."""
    try:
        reader.read(line)
    except Unprovable:
        return False
    return True


@LAWS
@given(
    one=st.sampled_from(closed()), other=st.sampled_from(closed()), joiner=st.sampled_from(["; ", " && ", " || ", "\n"])
)
def test_a_list_is_worth_its_worst_line(
    judge: Classifier, reader: ShellReader, one: Line, other: Line, joiner: str
) -> None:
    """risk(a;b) >= max(risk(a), risk(b)), and it is released exactly when both are."""
    text = f"{one.command}{joiner}{other.command}"
    alone = [risk(judge, line.command) for line in (one, other)]
    both = judge.classify("shell", {"command": text})
    if len(text) < 9_000 and is_read(reader, text):
        assert both.risk.rank >= max(each.rank for each in alone)
        assert (both.outcome == "release") is all(each is Risk.R0 for each in alone)
    else:
        assert both.outcome != "release"


@LAWS
@given(one=st.sampled_from(closed()), other=st.sampled_from(closed()))
def test_a_pipe_is_worth_its_worst_side(judge: Classifier, one: Line, other: Line) -> None:
    if "xargs" in other.command or "|" in one.command + other.command:
        return
    alone = max(risk(judge, line.command).rank for line in (one, other))
    assert risk(judge, f"{one.command} | {other.command}").rank >= min(alone, Risk.R2.rank)
    found = judge.classify("shell", {"command": f"{one.command} | {other.command}"})
    assert (found.outcome == "release") <= (alone == Risk.R0.rank)


@LAWS
@given(line=st.sampled_from(closed()), name=st.sampled_from(FOLLOWED), seed=st.integers(0, 2**32 - 1))
def test_a_disguise_never_releases_what_is_held(judge: Classifier, line: Line, name: str, seed: int) -> None:
    """outcome(obf(c)) is release only where that of c is."""
    import random

    text = CLASSES[name][0](line.command, random.Random(seed))
    if text is not None and judge.classify("shell", {"command": line.command}).outcome != "release":
        assert judge.classify("shell", {"command": text}).outcome != "release", text


@LAWS
@given(line=st.sampled_from(closed()), token=st.sampled_from(DANGEROUS))
def test_a_dangerous_token_is_never_hidden_by_the_line_before_it(judge: Classifier, line: Line, token: str) -> None:
    assert judge.classify("shell", {"command": line.command + token}).outcome != "release"


@LAWS
@given(line=st.sampled_from(closed()), token=st.sampled_from(["--zz-nobody-has-this", "--zz-nobody=x", "-\u00e9"]))
def test_an_unknown_flag_never_lowers(judge: Classifier, line: Line, token: str) -> None:
    """risk(c + flag) >= min(risk(c), R2) for a flag that no program has: it is a word, or it is unknown."""
    before = risk(judge, line.command)
    assert risk(judge, f"{line.command} {token}").rank >= min(before.rank, Risk.R2.rank)


@LAWS
@given(line=st.sampled_from(harmless()), data=st.data())
def test_a_word_more_of_any_kind_needs_a_reason(judge: Classifier, line: Line, data: st.DataObject) -> None:
    """A word of unknown value behind an R0 line: released only where any word may stand."""
    word = data.draw(st.sampled_from(['"$(cat x)"', "$(cat x)", "$RANDOM$(cat x)", "*"]))
    if judge.classify("shell", {"command": line.command}).outcome != "release":
        return
    found = judge.classify("shell", {"command": f"{line.command} {word}"})
    fixed = judge.classify("shell", {"command": f"{line.command} -zz-any"})
    plain = judge.classify("shell", {"command": f"{line.command} word-of-no-use"})
    if found.outcome == "release":
        # Where a word that is not known may stand, a known one may, whatever it is.
        assert "release" in {fixed.outcome, plain.outcome}


@LAWS
@given(line=st.sampled_from(closed()), wrap=st.sampled_from(WRAPPERS))
def test_a_wrapper_never_releases_what_is_held(judge: Classifier, line: Line, wrap: str) -> None:
    alone = judge.classify("shell", {"command": line.command})
    found = judge.classify("shell", {"command": wrap.format(line.command)})
    # A read that the second parser cannot read alone (`[ a \> b ]`) it may well read as words of a wrapper.
    unread = line.risk == "R0" and any("cannot be read" in reason for reason in alone.reasons)
    if alone.outcome != "release" and not unread:
        assert found.outcome != "release"

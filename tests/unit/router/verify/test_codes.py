"""Code and commands in answers."""

import pytest

from router.verify.codes import blocks, code, commands
from router.verify.values import Answer, Parsers, Status


def fenced(language: str, text: str) -> Answer:
    return Answer(f"Here it is:\n\n```{language}\n{text}\n```\n\nDone.")


def said(answer: Answer, parsers: Parsers | None = None) -> Status | None:
    found = code(answer, parsers or Parsers())
    return None if found is None else found.status


@pytest.mark.parametrize(
    ("language", "text", "status"),
    [
        ("python", "def f(x):\n    return x + 1", Status.PASS),
        ("python", "def f(x)\n    return x + 1", Status.FAIL),
        ("py", "print('a", Status.FAIL),
        ("python", "    return x\n  else:", Status.UNKNOWN),
        ("python", "def f(x:\n    ...", Status.UNKNOWN),
        ("python", ">>> 1 +\n", Status.UNKNOWN),
        ("python", "type Pair[T] = tuple[T, T]", Status.UNKNOWN),
        ("python", 'x = f"{a["b"]}"', Status.UNKNOWN),
        ("python", "%matplotlib inline\nx = 1", Status.UNKNOWN),
        ("python", "x = " + "(" * 90 + ")" * 90, Status.UNKNOWN),
        ("json", '{"a": [1, 2]}', Status.PASS),
        ("json", '{"a": [1, 2}', Status.FAIL),
        ("json", '{"a": 1,\n...\n}', Status.UNKNOWN),
        ("json", '// where\n{"a": 1}', Status.UNKNOWN),
        ("json", '{"a": 1}\n{"a": 2}', Status.UNKNOWN),
        ("rust", "fn main() {", Status.UNKNOWN),
        ("", "whatever {", Status.UNKNOWN),
        ("yaml", "a: 1", Status.UNKNOWN),
    ],
)
def test_whether_a_block_parses(language: str, text: str, status: Status) -> None:
    assert said(fenced(language, text)) is status


def test_prose_has_no_code() -> None:
    assert said(Answer("Use `x = (` if you like.")) is None


def test_one_bad_block_fails_and_one_unread_block_keeps_from_passing() -> None:
    good, bad, other = "```python\nx = 1\n```\n", "```python\nx = (\n```\n", "```go\nx := 1\n```\n"
    assert said(Answer(good)) is Status.PASS
    assert said(Answer(good + other)) is Status.UNKNOWN
    assert said(Answer(good + other + bad)) is Status.FAIL


def test_a_block_in_a_list_is_read_without_its_indentation() -> None:
    (found,) = blocks("1. First\n\n   ```python\n   def f():\n       return 1\n   ```\n")
    assert found.text == "def f():\n    return 1\n"


def test_yaml_is_read_by_whom_the_deployment_passes() -> None:
    parsers = Parsers(yaml=lambda text: "{" not in text)
    assert said(fenced("yaml", "a: 1"), parsers) is Status.PASS
    assert said(fenced("yml", "a: {"), parsers) is Status.FAIL


def test_text_is_never_run() -> None:
    assert said(fenced("python", "raise SystemExit(1)")) is Status.PASS


def test_commands_are_read_by_whom_the_deployment_passes() -> None:
    heard: list[str] = []

    def parses(text: str) -> bool | None:
        heard.append(text)
        return "done" in text

    good = commands(fenced("bash", "$ for x in a; do echo $x; done"), Parsers(command=parses))
    bad = commands(fenced("sh", "for x in a; do echo"), Parsers(command=parses))
    assert good is not None
    assert bad is not None
    assert (good.status, bad.status) == (Status.PASS, Status.FAIL)
    assert heard[0].startswith("for x")


def test_commands_without_a_parser_or_with_a_gap_to_fill_are_unknown() -> None:
    unread = commands(fenced("bash", "ls"), Parsers())
    gap = commands(fenced("bash", "kubectl logs <pod name>"), Parsers(command=lambda _: False))
    assert unread is not None
    assert gap is not None
    assert unread.status is gap.status is Status.UNKNOWN

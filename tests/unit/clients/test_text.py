import json
import subprocess
import sys
import tomllib

import yaml
from hypothesis import given
from hypothesis import strategies as st

from serve_app.clients.text import exports, json_text, toml_text, yaml_text

# Everything with a meaning in one of the formats, DEL among it.
AWKWARD = [
    "",
    "a",
    "quote \" and \\ and '",
    "tab\tand\nline",
    "del\x7f",
    "ünïcode \u2028 \U0001f600",
    "# no comment",
    "$HOME `x`",
]
ANY_TEXT = st.one_of(st.sampled_from(AWKWARD), st.text(st.characters(exclude_categories=["Cs"])))


@given(st.dictionaries(ANY_TEXT, ANY_TEXT | st.integers(-(2**63), 2**63 - 1) | st.booleans() | st.lists(ANY_TEXT)))
def test_toml_reads_back_whatever_was_written(table: dict[str, str | int | bool | list[str]]) -> None:
    assert tomllib.loads(toml_text(table, "a comment")) == table


@given(ANY_TEXT, ANY_TEXT, ANY_TEXT)
def test_toml_reads_back_tables_inside_tables(outer: str, inner: str, value: str) -> None:
    table = {"first": value, outer + "x": {inner: {"key": value}, inner + "x": value}}
    assert tomllib.loads(toml_text(table, "a comment")) == table


def test_toml_puts_plain_values_before_sections() -> None:
    text = toml_text({"section": {"a": 1}, "plain": True}, "c")
    assert text == "# c\nplain = true\n\n[section]\na = 1\n"


@given(ANY_TEXT)
def test_yaml_and_json_read_back_what_was_written(value: str) -> None:
    assert yaml.safe_load(yaml_text({"key": value}, "a comment")) == {"key": value}
    assert json.loads(json_text({"key": value})) == {"key": value}


def test_the_shell_gets_every_value_as_it_is_and_the_key_by_reference() -> None:
    values = {f"V{at}": value for at, value in enumerate(AWKWARD)}
    script = (
        exports(values, {"COPY": "KEY"}, "a comment")
        + f"exec {sys.executable} -c 'import json, os; print(json.dumps(dict(os.environ)))'"
    )
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, check=True, env={"KEY": "k $x '1'"})
    seen = json.loads(done.stdout)
    assert {name: seen[name] for name in values} == values
    assert seen["COPY"] == "k $x '1'"


def test_a_variable_is_not_copied_to_itself() -> None:
    assert exports({}, {"KEY": "KEY"}, "c") == "# c\n"

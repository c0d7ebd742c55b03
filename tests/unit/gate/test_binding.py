from dataclasses import fields, replace

import pytest

from deployments.gate.binding import ActionBinding, plan_digest
from deployments.gate.display import Display, escaped, render
from deployments.ports import Risk

BINDING = ActionBinding("ab" * 16, "acme", "key_1", "s1", "shell", '{"command":"ls"}', "f" * 64)


@pytest.mark.parametrize("name", [field.name for field in fields(ActionBinding)])
def test_every_field_is_in_the_digest(name: str) -> None:
    changed = replace(BINDING, **{name: getattr(BINDING, name) + "x"})
    assert changed.action_digest() != BINDING.action_digest()


@pytest.mark.parametrize("name", [field.name for field in fields(ActionBinding)])
def test_the_fingerprint_leaves_out_only_the_call_id(name: str) -> None:
    changed = replace(BINDING, **{name: getattr(BINDING, name) + "x"})
    assert (changed.fingerprint() == BINDING.fingerprint()) is (name == "gate_call_id")


def test_a_field_cannot_borrow_from_its_neighbour() -> None:
    assert replace(BINDING, tenant="acm", principal="ekey_1").fingerprint() != BINDING.fingerprint()


def test_a_plan_is_its_steps_in_order() -> None:
    assert plan_digest(("a", "b"), "v") != plan_digest(("b", "a"), "v")


def display(arguments: str = '{"command":"ls"}', commands: tuple[str, ...] = ("ls",)) -> Display:
    return render(
        tool="shell", arguments=arguments, commands=commands, risk=Risk.R2, reasons=("a: b",), tenant="acme",
        requester="key_1", session="s1", policy_digest="f" * 64, action_digest="e" * 64,
    )  # fmt: skip


@pytest.mark.parametrize(
    "char",
    [
        "\x00",
        "\x07",
        "\x1b",
        "\r",
        "\x7f",
        "\x9b",
        "\u202e",
        "\u2066",
        "\u200b",
        "\ufeff",
        "\u00a0",
        "\u2028",
        "\ud800",
    ],
)
def test_nothing_hides_in_a_display(char: str) -> None:
    assert char not in escaped(f"a{char}b")
    assert escaped(f"a{char}b") != "ab"
    assert char not in display(f'{{"command":"a{char}b"}}', (f"a{char}b",)).text.encode("utf-8", "replace").decode()


def test_a_value_cannot_forge_a_field() -> None:
    assert "\nrisk:       R0" not in display(commands=("ls\nrisk:       R0",)).text


def test_look_alikes_are_named() -> None:
    assert "CYRILLIC SMALL LETTER ES" in display(commands=("\u0441url",)).text


def test_nothing_is_cut_and_the_digest_covers_all() -> None:
    long = "x" * 100_000
    assert long + "y" in display(commands=(long + "y",)).text
    assert display(commands=(long + "y",)).digest != display(commands=(long + "z",)).digest

"""Whether a command line that a document shows is one that the command line program understands."""

from typing import Any

import typer

from serve_app.cli.main import app


def fault(words: list[str]) -> str | None:
    """What is wrong with a command line; None when the command line program has all of it."""
    command: Any = typer.main.get_command(app)
    rest = words[1:]
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        if rest[0] not in command.commands:
            return f"there is no {rest[0]}"
        command, rest = command.commands[rest[0]], rest[1:]
    if hasattr(command, "commands") and not command.invoke_without_command and "--help" not in rest:
        return "it is a group, not a command"
    options = {name: each for each in command.params for name in (*each.opts, *each.secondary_opts)}
    places = [each for each in command.params if each.param_type_name == "argument"]
    given, skip = 0, False
    for word in rest:
        if skip:
            skip = False
        elif word.startswith("--") and word != "--help":
            option = options.get(word.split("=")[0])
            if option is None:
                return f"it has no {word}"
            skip = not option.is_flag and "=" not in word
        elif word != "--help":
            given += 1
    if given > len(places) and not any(each.nargs == -1 for each in places):
        return f"it takes {len(places)} arguments, not {given}"
    return None

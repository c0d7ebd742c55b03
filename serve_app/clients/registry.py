"""Which clients there are, and in which formats each one can be configured."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final, TypeAlias

from serve_app.clients import aider, claude_code, codex, continue_dev, open_webui, openai_sdk, opencode
from serve_app.clients.values import Rendered, Setup

Renderer: TypeAlias = Callable[[Setup], Rendered]


class Client(StrEnum):
    """The clients by the name that the command line uses."""

    CODEX = "codex"
    CLAUDE_CODE = "claude-code"
    OPENCODE = "opencode"
    AIDER = "aider"
    CONTINUE = "continue"
    OPENAI = "openai"
    OPEN_WEBUI = "open-webui"


class Format(StrEnum):
    """What is written. Which ones a client has differs; the first of its own is the default."""

    TOML = "toml"
    JSON = "json"
    YAML = "yaml"
    SHELL = "shell"
    PYTHON = "python"


CLIENTS: Final[Mapping[Client, Mapping[Format, Renderer]]] = {
    Client.CODEX: {Format.TOML: codex.render_toml, Format.JSON: codex.render_catalogue},
    Client.CLAUDE_CODE: {Format.SHELL: claude_code.render_shell, Format.JSON: claude_code.render_settings},
    Client.OPENCODE: {Format.JSON: opencode.render},
    Client.AIDER: {
        Format.YAML: aider.render_yaml,
        Format.SHELL: aider.render_shell,
        Format.JSON: aider.render_metadata,
    },
    Client.CONTINUE: {Format.YAML: continue_dev.render},
    Client.OPENAI: {Format.PYTHON: openai_sdk.render_python, Format.SHELL: openai_sdk.render_shell},
    Client.OPEN_WEBUI: {Format.SHELL: open_webui.render},
}

"""Claude Code: environment variables, from a shell or from `settings.json`."""

from typing import Final

from serve_app.clients.text import exports, json_text
from serve_app.clients.values import ConfigFile, Rendered, Setup

_IDLE_MS: Final = 600_000
_FIRST_REQUEST_TOKENS: Final = 32_768
"""Tools and instructions of the first request take about 20,000 tokens."""

# Claude Code takes a window of 200,000 tokens for granted. It can be told of a smaller one, down to 100,000; below that
# only the share at which it compacts can be moved, and that is counted from the window less 20,000.
_LEAST_WINDOW: Final = 100_000
_OUTPUT_RESERVE: Final = 20_000
_COMPACT_AT: Final = 0.7


def variables(setup: Setup) -> dict[str, str]:
    """Everything but the key."""
    window = setup.model.context_window
    found = {
        "ANTHROPIC_BASE_URL": setup.url,
        "ANTHROPIC_MODEL": setup.model.name,
        "ANTHROPIC_DEFAULT_OPUS_MODEL": setup.strong.name,
        "ANTHROPIC_DEFAULT_SONNET_MODEL": setup.model.name,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": setup.small.name,
        "CLAUDE_CODE_AUTO_COMPACT_WINDOW": str(max(window, _LEAST_WINDOW)),
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_STREAM_IDLE_TIMEOUT_MS": str(_IDLE_MS),
        "DISABLE_AUTOUPDATER": "1",
        "DISABLE_ERROR_REPORTING": "1",
        "DISABLE_TELEMETRY": "1",
    }
    if window < _LEAST_WINDOW:
        share = window * _COMPACT_AT / (_LEAST_WINDOW - _OUTPUT_RESERVE)
        found["CLAUDE_AUTOCOMPACT_PCT_OVERRIDE"] = str(int(100 * share))
    return found


def render_shell(setup: Setup) -> Rendered:
    """Lines to source before `claude` is started."""
    content = exports(
        variables(setup),
        {"ANTHROPIC_AUTH_TOKEN": setup.key_env},
        f"Claude Code on Gatehouse; source it. The key is read from {setup.key_env}.",
    )
    if setup.key_env != "ANTHROPIC_API_KEY":
        content += "unset ANTHROPIC_API_KEY  # a second, different key in one request is refused\n"
    return Rendered((ConfigFile("claude-code.sh", content),), _hints(setup))


def render_settings(setup: Setup) -> Rendered:
    """`settings.json`, which cannot name a variable's value, but a command that prints it."""
    settings = {"apiKeyHelper": f"printenv {setup.key_env}", "env": variables(setup)}
    put = "Put it into ~/.claude/settings.json, and unset ANTHROPIC_API_KEY and ANTHROPIC_AUTH_TOKEN in the shell."
    return Rendered((ConfigFile("settings.json", json_text(settings)),), (put, *_hints(setup)))


def _hints(setup: Setup) -> tuple[str, ...]:
    if setup.model.context_window >= _FIRST_REQUEST_TOKENS:
        return ()
    return (
        f"Claude Code's first request alone takes about 20,000 tokens; the window of {setup.model.name} is "
        f"{setup.model.context_window}.",
    )

"""Codex CLI: `config.toml`, and the catalogue that tells it a model's window and abilities."""

from collections.abc import Sequence
from typing import Final

from serve_app.clients.text import Value, json_text, toml_text
from serve_app.clients.values import AUTO, ClientModel, ConfigFile, Rendered, Setup

CATALOGUE_FILE: Final = "gatehouse-models.json"
CATALOGUE_PATH: Final = "/v1/codex/models.json"

_IDLE_MS: Final = 600_000
_TOOL_OUTPUT_BYTES: Final = 10_000
_LEVELS: Final = {
    "low": "Short thinking, for small and clear tasks",
    "medium": "For everyday work",
    "high": "Long thinking, for hard problems",
}
_ROUTED_ABOUT: Final = "The router chooses model and effort for each turn"
_MODEL_ABOUT: Final = "Served by Gatehouse"

BASE_INSTRUCTIONS: Final = """\
You are a coding agent. You work in a terminal on the user's machine, together with the user, until the task is done.

How to work:
- Look before you change anything: read the files and the tests that the task touches, and obey every AGENTS.md that
  applies to them. Search with `rg`.
- Do what was asked and nothing else. Keep the style of the code you find. Never undo changes that are not yours.
- Change files with the `apply_patch` tool. Use the shell to look around, to build and to test.
- Prefer plain commands, one purpose each. Do not hide a command in a nested shell, in an encoded text or in a script
  that is piped into an interpreter.
- After a change, run the smallest check that can fail, then report what you ran and what it said.
- If something is unclear and a wrong guess would be costly, ask. Otherwise decide, and say what you assumed.

Every tool call passes a policy gate before it reaches the terminal. What the gate has to say appears as a line of text:
- `[gatehouse:held ...]`: the call did not run and waits for a human. Do not repeat it and do not reach for the same
  effect in another way. Go on with work that does not depend on it, or stop and say what waits, with its id.
- `[gatehouse:denied ...]`: the call will never run. Say so, and continue without it.
- `[gatehouse:unavailable ...]`: no verdict now. Try once more later, or stop and say so.

Answer in a few plain sentences. Name files as `path:line`. Do not repeat file contents that the user can open.
"""


def catalogue(models: Sequence[ClientModel]) -> dict[str, Value]:
    """What `model_catalog_json` wants: one entry per model, in order of preference."""
    return {"models": [_entry(model, place) for place, model in enumerate(models)]}


def _entry(model: ClientModel, place: int) -> dict[str, Value]:
    entry: dict[str, Value] = {
        "slug": model.name,
        "display_name": model.name,
        "description": _ROUTED_ABOUT if model.name == AUTO else _MODEL_ABOUT,
        "supported_reasoning_levels": [{"effort": name, "description": about} for name, about in _LEVELS.items()],
        "shell_type": "shell_command",
        "visibility": "list",
        "supported_in_api": True,
        "priority": place,
        "base_instructions": BASE_INSTRUCTIONS,
        "supports_reasoning_summaries": True,
        "support_verbosity": False,
        "apply_patch_tool_type": "freeform",
        "truncation_policy": {"mode": "bytes", "limit": _TOOL_OUTPUT_BYTES},
        "supports_parallel_tool_calls": True,
        "context_window": model.context_window,
        "experimental_supported_tools": [],
        "input_modalities": ["text"],
    }
    if model.name != AUTO:  # without a default Codex names no effort, and the router chooses
        entry["default_reasoning_level"] = "medium"
    return entry


def render_toml(setup: Setup) -> Rendered:
    """`config.toml`, with the catalogue to lie next to it."""
    config = {
        "model": setup.model.name,
        "model_provider": "gatehouse",
        "model_catalog_json": CATALOGUE_FILE,
        "web_search": "disabled",
        "check_for_update_on_startup": False,
        "analytics": {"enabled": False},
        "feedback": {"enabled": False},
        "agents": {"enabled": False},
        "shell_environment_policy": {"exclude": [setup.key_env]},  # commands of the agent do not need the key
        "model_providers": {
            "gatehouse": {
                "name": "gatehouse",  # never "OpenAI", which switches on what only its own servers answer
                "base_url": setup.base_url,
                "env_key": setup.key_env,
                "wire_api": "responses",
                "stream_idle_timeout_ms": _IDLE_MS,
            }
        },
    }
    content = toml_text(
        config, f"Codex CLI on Gatehouse; put it into $CODEX_HOME. The key is read from {setup.key_env}."
    )
    fetch = (
        f'Codex also needs {CATALOGUE_FILE} next to it: curl -fsS -H "Authorization: Bearer ${setup.key_env}" '
        f"{setup.url}{CATALOGUE_PATH} > {CATALOGUE_FILE}"
    )
    return Rendered((ConfigFile("config.toml", content), *render_catalogue(setup).files), alone=(fetch,))


def render_catalogue(setup: Setup) -> Rendered:
    """The catalogue alone."""
    return Rendered((ConfigFile(CATALOGUE_FILE, json_text(catalogue(setup.models))),))

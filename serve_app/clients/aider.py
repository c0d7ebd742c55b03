"""aider: `.aider.conf.yml`, the environment with the key, and the windows of the models."""

from typing import Final

from serve_app.clients.text import Value, exports, json_text, yaml_text
from serve_app.clients.values import ConfigFile, Rendered, Setup

_METADATA: Final = ".aider.model.metadata.json"


def render_yaml(setup: Setup) -> Rendered:
    """The configuration; it cannot hold a reference to the key, so the environment has to."""
    config: dict[str, Value] = {
        "openai-api-base": setup.base_url,
        "model": f"openai/{setup.model.name}",
        "weak-model": f"openai/{setup.small.name}",
        "model-metadata-file": _METADATA,
        "show-model-warnings": False,
        "show-release-notes": False,
        "check-update": False,
        "analytics-disable": True,
    }
    content = yaml_text(config, f'aider on Gatehouse. Before it starts: export OPENAI_API_KEY="${setup.key_env}"')
    files = (ConfigFile(".aider.conf.yml", content), *render_metadata(setup).files, *render_shell(setup).files)
    hint = (
        f'aider reads its key from OPENAI_API_KEY: export OPENAI_API_KEY="${setup.key_env}" '
        "LITELLM_LOCAL_MODEL_COST_MAP=True"
    )
    return Rendered(files, alone=(hint,))


def render_metadata(setup: Setup) -> Rendered:
    """Windows by model, which aider would otherwise look up in a price list."""
    metadata: dict[str, Value] = {
        f"openai/{each.name}": {
            "max_tokens": each.output_tokens,
            "max_input_tokens": each.context_window,
            "max_output_tokens": each.output_tokens,
            "input_cost_per_token": 0,
            "output_cost_per_token": 0,
            "litellm_provider": "openai",
            "mode": "chat",
        }
        for each in setup.models
    }
    return Rendered((ConfigFile(_METADATA, json_text(metadata)),))


def render_shell(setup: Setup) -> Rendered:
    """The environment: the key by reference, and no download of a price list."""
    content = exports(
        {"OPENAI_API_BASE": setup.base_url, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        {"OPENAI_API_KEY": setup.key_env},
        f"aider on Gatehouse; source it. The key is read from {setup.key_env}.",
    )
    return Rendered((ConfigFile("aider.sh", content),))

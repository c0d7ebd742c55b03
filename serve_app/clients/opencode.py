"""opencode: `opencode.json`."""

from serve_app.clients.text import json_text
from serve_app.clients.values import ConfigFile, Rendered, Setup


def render(setup: Setup) -> Rendered:
    """Models with their limits, without which opencode cannot compact."""
    config = {
        "$schema": "https://opencode.ai/config.json",
        "model": f"gatehouse/{setup.model.name}",
        "small_model": f"gatehouse/{setup.small.name}",
        "autoupdate": False,
        "share": "disabled",
        "enabled_providers": ["gatehouse"],
        "provider": {
            "gatehouse": {
                "npm": "@ai-sdk/openai-compatible",
                "name": "gatehouse",
                "options": {"baseURL": setup.base_url, "apiKey": f"{{env:{setup.key_env}}}"},
                "models": {
                    each.name: {
                        "name": each.name,
                        "limit": {"context": each.context_window, "output": each.output_tokens},
                    }
                    for each in setup.models
                },
            }
        },
    }
    quiet = (
        "Set OPENCODE_DISABLE_AUTOUPDATE=1 OPENCODE_DISABLE_MODELS_FETCH=1 OPENCODE_DISABLE_LSP_DOWNLOAD=1 where "
        "nothing may leave the network."
    )
    return Rendered((ConfigFile("opencode.json", json_text(config)),), (quiet,))

"""Continue, in the terminal and in editors: `config.yaml`."""

from serve_app.clients.text import Value, yaml_text
from serve_app.clients.values import ClientModel, ConfigFile, Rendered, Setup


def render(setup: Setup) -> Rendered:
    """Models for chat, edit and apply; one for autocomplete only where a model fills in the middle."""
    key = f"${{{{ secrets.{setup.key_env} }}}}"

    def entry(model: ClientModel, provider: str, *roles: str) -> dict[str, Value]:
        return {
            "name": f"{model.name} (gatehouse)" if provider == "openai" else f"{model.name} (autocomplete)",
            "provider": provider,
            "model": model.name,
            "apiBase": setup.base_url,
            "apiKey": key,
            "roles": list(roles),
            "defaultCompletionOptions": {"contextLength": model.context_window, "maxTokens": model.output_tokens},
        }

    ordered = [setup.model, *(each for each in setup.models if each != setup.model)]
    models = [
        {**entry(each, "openai", "chat", "edit", "apply"), "capabilities": ["tool_use"]}
        for each in ordered
        if each == setup.model or not each.fim
    ]
    # `vllm` renders the prompt in the editor and asks /v1/completions, as every model with such tokens wants it.
    models += [entry(each, "vllm", "autocomplete") for each in ordered if each.fim]
    config: dict[str, Value] = {"name": "gatehouse", "version": "1.0.0", "schema": "v1", "models": models}
    hints = (
        f"Editors read {setup.key_env} from ~/.continue/.env, the terminal from its environment.",
        "Set CONTINUE_TELEMETRY_ENABLED=0, or switch telemetry off in the editor's settings.",
    )
    return Rendered((ConfigFile("config.yaml", yaml_text(config, "Continue on Gatehouse.")),), hints)

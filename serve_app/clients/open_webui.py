"""Open WebUI: the environment of its server."""

from serve_app.clients.text import exports
from serve_app.clients.values import ConfigFile, Rendered, Setup


def render(setup: Setup) -> Rendered:
    """One connection, titles and tags on the small model, and nothing that asks the internet."""
    content = exports(
        {
            "ENABLE_OPENAI_API": "true",
            "OPENAI_API_BASE_URLS": setup.base_url,
            "DEFAULT_MODELS": setup.model.name,
            "TASK_MODEL_EXTERNAL": setup.small.name,
            "ENABLE_OLLAMA_API": "false",
            "ENABLE_AUTOCOMPLETE_GENERATION": "false",
            "ENABLE_COMMUNITY_SHARING": "false",
            "ENABLE_FORWARD_USER_INFO_HEADERS": "false",
            "ENABLE_VERSION_UPDATE_CHECK": "false",
            "OFFLINE_MODE": "true",
            "ANONYMIZED_TELEMETRY": "false",
            "SCARF_NO_ANALYTICS": "true",
            "DO_NOT_TRACK": "true",
        },
        {"OPENAI_API_KEYS": setup.key_env},
        f"Open WebUI on Gatehouse; source it where its server starts. The key is read from {setup.key_env}.",
    )
    hints = [
        "Open WebUI keeps the first values in its database: later changes need ENABLE_PERSISTENT_CONFIG=false or its "
        "admin pages."
    ]
    if any(host in setup.url for host in ("//127.", "//localhost", "//[::1]")):
        hints.append("In a container the loopback address is the container itself: give --url the host's address.")
    return Rendered((ConfigFile("open-webui.sh", content),), tuple(hints))

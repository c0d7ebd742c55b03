"""The official OpenAI SDK: a snippet that runs, and the environment that it reads by itself."""

import json

from serve_app.clients.text import exports
from serve_app.clients.values import ConfigFile, Rendered, Setup


def render_python(setup: Setup) -> Rendered:
    """A call that says who answered, and what it was charged."""
    content = f"""\
# The OpenAI SDK on Gatehouse. The key is read from {setup.key_env}.
import os

import openai

client = openai.OpenAI(base_url={json.dumps(setup.base_url)}, api_key=os.environ[{json.dumps(setup.key_env)}])
reply = client.chat.completions.with_raw_response.create(
    model={json.dumps(setup.model.name)},
    messages=[{{"role": "user", "content": "Who are you?"}}],
)
print(reply.parse().choices[0].message.content)
print(reply.headers.get("x-gatehouse-model"), reply.headers.get("x-gatehouse-route-reason"))
"""
    return Rendered((ConfigFile("gatehouse_example.py", content),))


def render_shell(setup: Setup) -> Rendered:
    """What `openai.OpenAI()` and most tools built on it read."""
    content = exports(
        {"OPENAI_BASE_URL": setup.base_url, "OPENAI_API_BASE": setup.base_url, "OPENAI_AGENTS_DISABLE_TRACING": "1"},
        {"OPENAI_API_KEY": setup.key_env},
        f"OpenAI clients on Gatehouse; source it. The key is read from {setup.key_env}.",
    )
    return Rendered((ConfigFile("openai.sh", content),))

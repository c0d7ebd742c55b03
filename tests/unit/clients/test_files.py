"""What each client is given, read back with a parser of its format."""

import json
import shlex
import subprocess
import tomllib
from typing import Any

import httpx2
import openai
import pytest
import yaml

from serve_app.clients import claude_code, codex
from serve_app.clients.registry import CLIENTS, Client, Format
from serve_app.clients.values import ClientModel, Rendered, Setup, assumed_models, make_setup

URL = "https://gate.example:8443"
SERVED = (
    ClientModel("auto", 65_536, "auto"),
    ClientModel("gpt-oss-20b", 65_536, "20b"),
    ClientModel("gpt-oss-120b", 131_072, "120b"),
)
PAIRS = [(client, form) for client, formats in CLIENTS.items() for form in formats]


def setup(model: str = "auto", small: str | None = None, models: tuple[ClientModel, ...] = SERVED) -> Setup:
    return make_setup(URL, "TEAM_KEY", models, model, small, complete=True)


def render(client: Client, form: Format, given: Setup | None = None) -> Rendered:
    return CLIENTS[client][form](given or setup())


def variables(script: str) -> dict[str, str]:
    """The exports of a script, as a shell with the key sets them."""
    names = [line.split()[1].split("=")[0] for line in script.splitlines() if line.startswith("export ")]
    printing = "".join(f'printf "%s\\0" "${{{name}-UNSET}}"\n' for name in [*names, "ANTHROPIC_API_KEY"])
    environment = {"TEAM_KEY": "gh-secret", "ANTHROPIC_API_KEY": "vendor"}
    done = subprocess.run(["/bin/sh", "-c", script + printing], capture_output=True, check=True, env=environment)
    return dict(zip([*names, "ANTHROPIC_API_KEY"], done.stdout.decode().split("\0"), strict=False))


def only(rendered: Rendered) -> str:
    return rendered.files[0].content


# --- all -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("client", "form"), PAIRS)
def test_every_file_ends_with_one_line_feed_and_has_a_plain_name(client: Client, form: Format) -> None:
    for file in render(client, form).files:
        assert file.content.endswith("\n")
        assert not file.content.endswith("\n\n")
        assert "/" not in file.name


@pytest.mark.parametrize(("client", "form"), [pair for pair in PAIRS if pair[1] is not Format.JSON])
def test_a_file_that_connects_names_the_url_and_the_keys_variable(client: Client, form: Format) -> None:
    text = only(render(client, form))
    assert URL in text
    assert "TEAM_KEY" in text
    assert "GATEHOUSE_API_KEY" not in text


# --- which model ---------------------------------------------------------------------------------------------------


def test_the_small_model_is_the_one_of_the_20b_tier() -> None:
    assert setup("gpt-oss-120b").small.name == "gpt-oss-20b"


def test_without_a_20b_tier_the_chosen_model_does_the_background_work() -> None:
    assert setup("mine", models=(ClientModel("mine", 8192), ClientModel("other", 8192))).small.name == "mine"


def test_a_small_model_may_be_named() -> None:
    assert setup(small="gpt-oss-120b").small.name == "gpt-oss-120b"


def test_an_unlisted_model_gets_the_smallest_window_when_nobody_could_be_asked() -> None:
    given = make_setup(URL, "K", (ClientModel("a", 9000), ClientModel("b", 7000)), "mine", None, complete=False)
    assert given.model == ClientModel("mine", 7000)
    assert given.model in given.models


# --- codex ---------------------------------------------------------------------------------------------------------


def test_codex_is_told_provider_key_catalogue_and_patience() -> None:
    config = tomllib.loads(only(render(Client.CODEX, Format.TOML)))
    assert config["model"] == "auto"
    assert config["model_providers"][config["model_provider"]] == {
        "name": "gatehouse",
        "base_url": f"{URL}/v1",
        "env_key": "TEAM_KEY",
        "wire_api": "responses",
        "stream_idle_timeout_ms": 600_000,
    }


def test_codex_keeps_quiet_and_keeps_the_key_from_the_commands_it_runs() -> None:
    config = tomllib.loads(only(render(Client.CODEX, Format.TOML)))
    assert config["analytics"] == config["feedback"] == {"enabled": False}
    assert config["check_for_update_on_startup"] is False
    assert config["web_search"] == "disabled"
    assert config["shell_environment_policy"]["exclude"] == ["TEAM_KEY"]


def test_the_catalogue_is_written_under_the_name_that_the_config_refers_to() -> None:
    config, models = render(Client.CODEX, Format.TOML).files
    assert tomllib.loads(config.content)["model_catalog_json"] == models.name
    assert models == render(Client.CODEX, Format.JSON).files[0]


def test_whoever_takes_the_config_alone_is_told_how_to_fetch_the_catalogue() -> None:
    (hint,) = render(Client.CODEX, Format.TOML).alone
    words = shlex.split(hint[hint.index("curl") :])
    assert f"{URL}/v1/codex/models.json" in words
    assert words[-1] == codex.CATALOGUE_FILE
    assert "$TEAM_KEY" in hint


def entries() -> dict[str, dict[str, Any]]:
    models: list[dict[str, Any]] = json.loads(only(render(Client.CODEX, Format.JSON)))["models"]
    return {each["slug"]: each for each in models}


def test_the_catalogue_has_every_model_with_its_window_in_order_of_preference() -> None:
    seen = [(slug, each["context_window"], each["priority"]) for slug, each in entries().items()]
    assert seen == [("auto", 65_536, 0), ("gpt-oss-20b", 65_536, 1), ("gpt-oss-120b", 131_072, 2)]


# Fields without a default in the catalogue reader of Codex 0.169: leaving one out makes the whole file unreadable.
NEEDED = {
    "slug", "display_name", "supported_reasoning_levels", "shell_type", "visibility", "supported_in_api", "priority",
    "base_instructions", "supports_reasoning_summaries", "support_verbosity", "truncation_policy",
    "supports_parallel_tool_calls", "experimental_supported_tools",
}  # fmt: skip


def test_an_entry_has_every_field_that_codex_refuses_to_miss() -> None:
    for each in entries().values():
        assert each.keys() >= NEEDED
        assert each["truncation_policy"].keys() == {"mode", "limit"}
        assert [level["effort"] for level in each["supported_reasoning_levels"]] == ["low", "medium", "high"]
        assert each["input_modalities"] == ["text"]


def test_only_the_routed_model_leaves_the_effort_to_the_router() -> None:
    levels = {slug: each.get("default_reasoning_level") for slug, each in entries().items()}
    assert levels == {"auto": None, "gpt-oss-20b": "medium", "gpt-oss-120b": "medium"}


def test_the_instructions_explain_every_notice_of_the_gate() -> None:
    for notice in ("[gatehouse:held ", "[gatehouse:denied ", "[gatehouse:unavailable "):
        assert notice in codex.BASE_INSTRUCTIONS


# --- claude code ---------------------------------------------------------------------------------------------------


def test_claude_code_sends_our_key_alone_to_the_url_without_v1() -> None:
    seen = variables(only(render(Client.CLAUDE_CODE, Format.SHELL)))
    assert seen["ANTHROPIC_BASE_URL"] == URL
    assert seen["ANTHROPIC_AUTH_TOKEN"] == "gh-secret"
    assert seen["ANTHROPIC_API_KEY"] == "UNSET"


def test_claude_codes_model_names_map_to_small_chosen_and_strong() -> None:
    seen = variables(only(render(Client.CLAUDE_CODE, Format.SHELL)))
    names = [seen[f"ANTHROPIC_DEFAULT_{name}_MODEL"] for name in ("HAIKU", "SONNET", "OPUS")]
    assert names == ["gpt-oss-20b", "auto", "gpt-oss-120b"]
    assert seen["ANTHROPIC_MODEL"] == "auto"


def test_claude_code_is_quiet_and_waits_for_a_held_call() -> None:
    seen = variables(only(render(Client.CLAUDE_CODE, Format.SHELL)))
    for name in ("DISABLE_TELEMETRY", "DISABLE_AUTOUPDATER", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"):
        assert seen[name] == "1"
    assert seen["CLAUDE_STREAM_IDLE_TIMEOUT_MS"] == "600000"


def test_claude_codes_settings_hold_the_same_and_print_the_key_on_demand() -> None:
    settings = json.loads(only(render(Client.CLAUDE_CODE, Format.JSON)))
    assert settings["apiKeyHelper"] == "printenv TEAM_KEY"
    shell = variables(only(render(Client.CLAUDE_CODE, Format.SHELL)))
    assert settings["env"].items() <= shell.items()
    assert "ANTHROPIC_BASE_URL" in settings["env"]


@pytest.mark.parametrize(
    ("window", "told", "share"), [(131_072, "131072", None), (100_000, "100000", None), (65_536, "100000", "57")]
)
def test_claude_code_compacts_before_the_window_is_full(window: int, told: str, share: str | None) -> None:
    seen = claude_code.variables(setup("m", models=(ClientModel("m", window),)))
    assert seen["CLAUDE_CODE_AUTO_COMPACT_WINDOW"] == told
    assert seen.get("CLAUDE_AUTOCOMPACT_PCT_OVERRIDE") == share


def test_a_window_too_small_for_claude_codes_first_request_is_said_at_once() -> None:
    small = setup("m", models=(ClientModel("m", 16_384),))
    assert any("16384" in hint for hint in render(Client.CLAUDE_CODE, Format.SHELL, small).hints)
    assert render(Client.CLAUDE_CODE, Format.SHELL).hints == ()


# --- opencode, aider, continue, open webui ------------------------------------------------------------------------


def test_opencode_knows_limits_and_takes_the_key_from_its_variable() -> None:
    config = json.loads(only(render(Client.OPENCODE, Format.JSON)))
    provider = config["provider"]["gatehouse"]
    assert provider["options"] == {"baseURL": f"{URL}/v1", "apiKey": "{env:TEAM_KEY}"}
    assert provider["models"]["gpt-oss-120b"]["limit"] == {"context": 131_072, "output": 32_000}
    assert provider["models"]["auto"]["limit"] == {"context": 65_536, "output": 16_384}
    assert (config["model"], config["small_model"]) == ("gatehouse/auto", "gatehouse/gpt-oss-20b")
    assert (config["autoupdate"], config["share"]) == (False, "disabled")


def test_aider_gets_models_windows_and_silence() -> None:
    config_file, metadata_file, shell = render(Client.AIDER, Format.YAML).files
    config = yaml.safe_load(config_file.content)
    assert (config["model"], config["weak-model"]) == ("openai/auto", "openai/gpt-oss-20b")
    assert config["openai-api-base"] == f"{URL}/v1"
    assert (config["analytics-disable"], config["check-update"]) == (True, False)
    assert config["model-metadata-file"] == metadata_file.name
    assert json.loads(metadata_file.content)["openai/gpt-oss-120b"]["max_input_tokens"] == 131_072
    assert variables(shell.content)["OPENAI_API_KEY"] == "gh-secret"


def test_continue_lists_the_chosen_model_first_and_takes_the_key_from_a_secret() -> None:
    config = yaml.safe_load(only(render(Client.CONTINUE, Format.YAML, setup("gpt-oss-120b"))))
    first = config["models"][0]
    assert (first["model"], first["provider"], first["apiBase"]) == ("gpt-oss-120b", "openai", f"{URL}/v1")
    assert first["apiKey"] == "${{ secrets.TEAM_KEY }}"
    assert {role for each in config["models"] for role in each["roles"]} == {"chat", "edit", "apply"}
    assert (config["schema"], config["version"]) == ("v1", "1.0.0")


def test_continue_completes_only_with_a_model_that_fills_in_the_middle() -> None:
    models = (*SERVED, ClientModel("coder", 32_768, fim=True))
    config = yaml.safe_load(only(render(Client.CONTINUE, Format.YAML, setup(models=models))))
    (completing,) = [each for each in config["models"] if "autocomplete" in each["roles"]]
    assert (completing["model"], completing["provider"], completing["roles"]) == ("coder", "vllm", ["autocomplete"])


def test_open_webui_sends_titles_to_the_small_model_and_asks_nothing_of_the_internet() -> None:
    seen = variables(only(render(Client.OPEN_WEBUI, Format.SHELL)))
    assert seen["OPENAI_API_BASE_URLS"] == f"{URL}/v1"
    assert seen["OPENAI_API_KEYS"] == "gh-secret"
    assert (seen["DEFAULT_MODELS"], seen["TASK_MODEL_EXTERNAL"]) == ("auto", "gpt-oss-20b")
    assert (seen["OFFLINE_MODE"], seen["ENABLE_FORWARD_USER_INFO_HEADERS"]) == ("true", "false")


def test_open_webui_is_warned_of_a_loopback_address() -> None:
    local = make_setup("http://127.0.0.1:8000", "K", assumed_models(None), "auto", None, complete=True)
    assert any("container" in hint for hint in render(Client.OPEN_WEBUI, Format.SHELL, local).hints)
    assert not any("container" in hint for hint in render(Client.OPEN_WEBUI, Format.SHELL).hints)


# --- openai --------------------------------------------------------------------------------------------------------


def test_the_python_snippet_runs_and_says_who_answered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        message = {"role": "assistant", "content": "a gate"}
        body = {
            "id": "c", "object": "chat.completion", "created": 1, "model": "auto",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        }  # fmt: skip
        return httpx2.Response(200, json=body, headers={"x-gatehouse-model": "gpt-oss-20b"})

    real = openai.OpenAI
    with httpx2.Client(transport=httpx2.MockTransport(answer)) as http:
        monkeypatch.setattr(openai, "OpenAI", lambda **given: real(http_client=http, **given))
        monkeypatch.setenv("TEAM_KEY", "gh-secret")
        exec(compile(only(render(Client.OPENAI, Format.PYTHON)), "snippet", "exec"), {})  # noqa: S102
    assert str(asked[0].url) == f"{URL}/v1/chat/completions"
    assert asked[0].headers["authorization"] == "Bearer gh-secret"
    assert capsys.readouterr().out == "a gate\ngpt-oss-20b None\n"


def test_openais_environment_is_what_the_sdk_reads() -> None:
    seen = variables(only(render(Client.OPENAI, Format.SHELL)))
    assert (seen["OPENAI_BASE_URL"], seen["OPENAI_API_KEY"]) == (f"{URL}/v1", "gh-secret")

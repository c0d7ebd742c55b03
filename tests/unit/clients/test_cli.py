import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from serve_app.cli import client_config

SECRET = "gh-very-secret"
MODELS = [
    {"id": "auto", "context_window": 16_384, "tier": "auto", "dialects": ["chat"]},
    {"id": "demo-20b", "context_window": 16_384, "tier": "20b", "dialects": ["chat"]},
    {"id": "demo-120b", "context_window": 32_768, "tier": "120b", "dialects": ["chat"]},
]


class Server:
    """Answers `GET /v1/models`, or fails as told, and remembers who asked."""

    def __init__(self) -> None:
        self.asked: list[httpx2.Request] = []
        self.answer: Callable[[], httpx2.Response] = lambda: httpx2.Response(200, json={"data": MODELS})

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request)
        return self.answer()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Server:
    server = Server()

    def make_http(key: str) -> httpx2.Client:
        transport = httpx2.MockTransport(server.handle)
        return httpx2.Client(transport=transport, headers={"authorization": f"Bearer {key}"})

    monkeypatch.setattr(client_config, "make_http", make_http)
    for name in ("GATEHOUSE_URL", "GATEHOUSE_KEY", "GATEHOUSE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GATEHOUSE_STATE_DIR", str(tmp_path / "state"))
    return server


def run(*arguments: str, **environment: str) -> Result:
    app = typer.Typer()
    app.command()(client_config.client_config)
    done = CliRunner().invoke(app, list(arguments), env=environment)
    assert SECRET not in done.output
    return done


def test_names_and_windows_come_from_the_server(server: Server) -> None:
    done = run("opencode", GATEHOUSE_API_KEY=SECRET)
    config = json.loads(done.stdout)
    assert config["small_model"] == "gatehouse/demo-20b"
    assert config["provider"]["gatehouse"]["models"]["demo-120b"]["limit"]["context"] == 32_768
    assert str(server.asked[0].url) == "http://127.0.0.1:8000/v1/models"
    assert server.asked[0].headers["authorization"] == f"Bearer {SECRET}"


def test_standard_output_is_the_file_and_nothing_else(server: Server) -> None:
    done = run("codex", GATEHOUSE_API_KEY=SECRET)
    assert tomllib.loads(done.stdout)["model"] == "auto"
    assert "gatehouse-models.json" in done.stderr


@pytest.mark.parametrize(
    ("answer", "because"),
    [
        (lambda: httpx2.Response(401, json={"error": {"message": SECRET}}), "status 401"),
        (lambda: httpx2.Response(302, headers={"location": "https://elsewhere.example"}), "status 302"),
        (lambda: httpx2.Response(200, text="<html>"), "not JSON"),
        (lambda: httpx2.Response(200, content=b"\xff\xfe{"), "not JSON"),
        (lambda: httpx2.Response(200, json={"data": []}), "lists no model"),
    ],
)
def test_a_server_that_cannot_tell_leaves_the_assumed_models_and_one_sentence(
    server: Server, answer: Callable[[], httpx2.Response], because: str
) -> None:
    server.answer = answer
    done = run("continue", GATEHOUSE_API_KEY=SECRET)
    assert done.exit_code == 0
    assert "gpt-oss-120b" in done.stdout
    (sentence,) = [line for line in done.stderr.splitlines() if "assumed" in line]
    assert because in sentence
    assert len(server.asked) == 1


def test_a_server_that_does_not_answer_is_named(server: Server) -> None:
    def refuse() -> httpx2.Response:
        raise httpx2.ConnectError("refused")

    server.answer = refuse
    done = run("opencode", "--context", "20000", GATEHOUSE_API_KEY=SECRET)
    assert "no Gatehouse answers at http://127.0.0.1:8000" in done.stderr
    assert json.loads(done.stdout)["provider"]["gatehouse"]["models"]["auto"]["limit"]["context"] == 20_000


def test_without_a_key_nobody_is_asked(server: Server) -> None:
    done = run("codex")
    assert "GATEHOUSE_API_KEY holds no key" in done.stderr
    assert tomllib.loads(done.stdout)["model"] == "auto"
    assert server.asked == []


def test_the_operators_key_goes_to_the_operators_server_only(server: Server) -> None:
    run("codex", GATEHOUSE_KEY=SECRET)
    assert len(server.asked) == 1
    done = run("codex", "--url", "https://elsewhere.example", GATEHOUSE_KEY=SECRET)
    assert len(server.asked) == 1
    assert "assumed" in done.stderr


def test_the_clients_own_key_is_asked_with_wherever_the_client_will_send_it(server: Server) -> None:
    run("codex", "--url", "https://elsewhere.example/v1/", "--key-env", "MY_KEY", MY_KEY=SECRET, GATEHOUSE_KEY="other")
    assert str(server.asked[0].url) == "https://elsewhere.example/v1/models"
    assert server.asked[0].headers["authorization"] == f"Bearer {SECRET}"


def test_a_model_that_the_key_may_not_use_is_refused_with_those_it_may(server: Server) -> None:
    done = run("codex", "--model", "gpt-5", GATEHOUSE_API_KEY=SECRET)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "auto, demo-20b, demo-120b" in done.stderr


def test_a_model_is_taken_at_its_word_when_nobody_could_be_asked(server: Server) -> None:
    assert tomllib.loads(run("codex", "--model", "mine").stdout)["model"] == "mine"


def test_write_makes_every_file_and_prints_none(server: Server, tmp_path: Path) -> None:
    done = run("codex", "--write", str(tmp_path / "home" / "codex"), GATEHOUSE_API_KEY=SECRET)
    assert done.stdout == ""
    config = tomllib.loads((tmp_path / "home" / "codex" / "config.toml").read_text(encoding="utf-8"))
    catalogue = json.loads((tmp_path / "home" / "codex" / config["model_catalog_json"]).read_text(encoding="utf-8"))
    assert [each["slug"] for each in catalogue["models"]] == ["auto", "demo-20b", "demo-120b"]
    assert "curl" not in done.stderr


def test_output_writes_the_one_file_under_the_given_name(server: Server, tmp_path: Path) -> None:
    done = run("codex", "--output", str(tmp_path / "x.toml"), GATEHOUSE_API_KEY=SECRET)
    assert done.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["x.toml"]


def test_files_of_the_user_are_not_replaced_and_none_is_written_halfway(server: Server, tmp_path: Path) -> None:
    mine = tmp_path / "gatehouse-models.json"
    mine.write_text("mine", encoding="utf-8")
    done = run("codex", "--write", str(tmp_path), GATEHOUSE_API_KEY=SECRET)
    assert done.exit_code == 1
    assert "--force" in done.stderr
    assert mine.read_text(encoding="utf-8") == "mine"
    assert not (tmp_path / "config.toml").exists()


def test_force_replaces_and_an_equal_file_needs_no_force(server: Server, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("mine", encoding="utf-8")
    assert run("codex", "--write", str(tmp_path), "--force", GATEHOUSE_API_KEY=SECRET).exit_code == 0
    assert run("codex", "--write", str(tmp_path), GATEHOUSE_API_KEY=SECRET).exit_code == 0


def test_a_folder_that_cannot_be_made_is_one_sentence(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    done = run("codex", "--write", str(tmp_path / "file" / "below"), GATEHOUSE_API_KEY=SECRET)
    assert done.exit_code == 1
    assert "cannot be written" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["codex", "--key-env", SECRET],
        ["codex", "--key-env", "A B"],
        ["codex", "--format", "yaml"],
        ["codex", "--write", "a", "--output", "b"],
        ["codex", "--model", "a\nb"],
        ["codex", "--small-model", "$(id)"],
        ["codex", "--url", "gate.example"],
        ["codex", "--url", "file:///etc/passwd"],
        ["codex", "--url", "https://"],
        ["codex", "--url", f"https://user:{SECRET}@gate.example"],
        ["codex", "--url", f"https://gate.example?key={SECRET}"],
        ["codex", "--url", "https://gate.example/$(id)"],
        ["codex", "--url", "https://gate.example:99999"],
        ["codex", "--url", "https://[gate.example"],
    ],
)
def test_a_wrong_option_is_one_sentence_that_does_not_repeat_it(server: Server, arguments: list[str]) -> None:
    done = run(*arguments, GATEHOUSE_API_KEY=SECRET)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("gatehouse: ")
    assert len(done.stderr.splitlines()) == 1
    assert server.asked == []


def test_a_key_that_no_header_can_carry_is_not_sent(server: Server) -> None:
    done = run("codex", GATEHOUSE_API_KEY=f"{SECRET}\u00fc")
    assert done.exit_code == 0
    assert "characters that no key has" in done.stderr
    assert server.asked == []


@pytest.mark.parametrize(("url", "warned"), [("http://gate.example", True), ("http://[::1]:8000", False)])
def test_a_key_that_would_travel_unencrypted_is_said(server: Server, url: str, warned: bool) -> None:
    assert ("unencrypted" in run("codex", "--url", url).stderr) == warned

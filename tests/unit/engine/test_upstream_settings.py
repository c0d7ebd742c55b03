from pathlib import Path

import pytest
from pydantic import ValidationError

from deployments.engine.upstream import read_secret
from deployments.engine.upstream_settings import UpstreamSettings, upstream_options
from deployments.errors import EngineFailed

LOCAL = "http://127.0.0.1:8080/v1"


def settings(base_url: str = LOCAL, **more: object) -> UpstreamSettings:
    return UpstreamSettings.model_validate(
        {"kind": "openai", "model": "tiny", "revision": "r1", "base_url": base_url, **more}
    )


@pytest.mark.parametrize(
    ("base_url", "path", "url"),
    [
        ("http://127.0.0.1:8080", "/v1/chat/completions", "http://127.0.0.1:8080/v1/chat/completions"),
        ("http://127.0.0.1:8080/", "/v1/models", "http://127.0.0.1:8080/v1/models"),
        ("http://127.0.0.1:8080/v1/", "/v1/completions", "http://127.0.0.1:8080/v1/completions"),
        ("http://127.0.0.1:8080/v1", "/tokenize", "http://127.0.0.1:8080/tokenize"),
        ("http://[::1]:8080/openai/v1", "/v1/models", "http://[::1]:8080/openai/v1/models"),
        ("http://localhost/v1beta/openai", "/v1/chat/completions", "http://localhost/v1beta/openai/chat/completions"),
    ],
)
def test_paths_are_put_onto_the_base_url_as_an_openai_client_would(base_url: str, path: str, url: str) -> None:
    assert settings(base_url).url(path) == url


@pytest.mark.parametrize(
    ("base_url", "more", "local"),
    [
        (LOCAL, {}, True),
        ("http://localhost:11434", {}, True),
        ("http://127.9.9.9", {}, True),
        ("http://10.0.0.5:8000", {"local": True}, True),
        ("https://10.0.0.5:8000", {"allowed_hosts": ["10.0.0.5"]}, False),
        ("https://API.example.com/v1", {"allowed_hosts": ["api.EXAMPLE.com"]}, False),
        ("https://localhost:9", {"local": False, "allowed_hosts": ["localhost"]}, False),
        ("https://localhost.example.com", {"allowed_hosts": ["localhost.example.com"]}, False),
    ],
)
def test_local_is_what_the_operator_says_or_a_loopback_address(
    base_url: str, more: dict[str, object], local: bool
) -> None:
    assert settings(base_url, **more).is_local is local


@pytest.mark.parametrize(
    ("base_url", "more", "why"),
    [
        ("https://api.example.com", {}, "not in allowed_hosts"),
        ("https://api.example.com", {"allowed_hosts": ["example.com"]}, "not in allowed_hosts"),
        ("http://api.example.com", {"allowed_hosts": ["api.example.com"]}, "over https"),
        ("http://10.0.0.5", {}, "not in allowed_hosts"),
        (LOCAL, {"local": False}, "not in allowed_hosts"),
        ("ftp://127.0.0.1", {}, "http or https"),
        ("127.0.0.1:80", {}, "http or https"),
        ("http://127.0.0.1:99999", {}, "not a URL"),
        ("http://127.0.0.1/v1?x=1", {}, "query"),
        ("http://127.0.0.1/v1#x", {}, "fragment"),
        ("http://127.0.0.1\\@example.com", {}, "credentials"),
        ("http://127.0.0.1\\example.com", {}, "printable|host"),
        ("http://127.0.0.1/ v1", {}, "blanks"),
        (LOCAL, {"api_key_env": "A", "api_key_file": "/b"}, "not both"),
        (LOCAL, {"api_key_file": "relative"}, "pattern"),
        (LOCAL, {"paths": ["/v1/files"]}, "not a path of an engine"),
        (LOCAL, {"paths": []}, "at least 1"),
        (LOCAL, {"drop_fields": ["messages"]}, "cannot be dropped"),
        (LOCAL, {"verify_tls": False}, "Extra inputs"),
    ],
)
def test_what_is_unsafe_or_means_nothing_is_refused(base_url: str, more: dict[str, object], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        settings(base_url, **more)


def test_credentials_in_the_url_are_refused_and_never_quoted() -> None:
    with pytest.raises(ValidationError) as caught:
        settings("http://user:hunter2@127.0.0.1/v1")
    first = caught.value.errors(include_url=False, include_input=False)[0]
    assert "api_key_env" in first["msg"]
    assert "hunter2" not in str(first["msg"])


def test_the_key_is_read_where_it_is_named(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("sk-file\n")
    assert read_secret(settings(), {"A": "x"}) is None
    assert read_secret(settings(api_key_env="A"), {"A": " sk-env "}) == "sk-env"
    assert read_secret(settings(api_key_file=str(file)), {}) == "sk-file"


@pytest.mark.parametrize("value", [None, "", "  ", "two words", "line\nbreak", "schlüssel"])
def test_a_missing_or_broken_key_is_one_sentence_without_the_key(value: str | None, tmp_path: Path) -> None:
    environ = {} if value is None else {"A": value}
    with pytest.raises(EngineFailed, match=r"^The variable A does not hold a usable key for the model 'tiny'\.$"):
        read_secret(settings(api_key_env="A"), environ)
    with pytest.raises(EngineFailed, match=r"^The file .* cannot be read\.$"):
        read_secret(settings(api_key_file=str(tmp_path / "none")), {})


def test_serve_gets_no_gpu_and_no_environment() -> None:
    options = upstream_options(settings(num_cpus=0.5, max_queued=32))
    assert options["ray_actor_options"] == {"num_cpus": 0.5}
    assert options["max_queued_requests"] == 32

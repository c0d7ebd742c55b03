"""Settings of kind `openai`: a server that somebody else runs and that speaks OpenAI's API. Pure: no Ray, no network.

Two rules keep prompts where they belong. An upstream is local only when its address is a loopback one or the operator
says so (`local: true`); a private address alone proves nothing. An upstream that is not local must be reached over
https, and its host must stand in `allowed_hosts`.
"""

import ipaddress
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, field_validator, model_validator

from deployments.engine.breaker import BreakerSettings
from deployments.engine.settings import ENGINE_PATHS, ServedSettings, plain_actor, serve_options

DEFAULT_PATHS = ["/v1/chat/completions", "/v1/completions"]
KEPT_FIELDS = frozenset({"model", "messages", "prompt", "input", "stream", "tools"})
"""Request fields that may not be dropped: without them it would be another request."""


class UpstreamSettings(ServedSettings):
    """One model of an OpenAI-compatible server.

    `base_url` is what an OpenAI client would be given, so it usually ends in `/v1`, which is also added when it has no
    path. `upstream_model` is the model's name there (default: `model`). The key is named, never written here:
    `api_key_env` is a variable of the replica's environment, `api_key_file` an absolute path on the replica's machine.

    `connect_s`, `pool_s` (waiting for a free connection), `first_byte_s` (until the first event of a stream) and
    `read_s` (between two pieces of a stream) are seconds; replies that are not streamed have `request_deadline_s`
    alone. `drop_fields` are top-level request fields that the upstream refuses.

    `health_path` is asked every `health_period_s`; a path that ends in `/models` must list `upstream_model`.
    """

    kind: Literal["openai"] = "openai"
    base_url: Annotated[str, Field(min_length=1, max_length=512)]
    upstream_model: Annotated[str, Field(pattern=r"^[\x21-\x7e][\x20-\x7e]{0,255}$")] | None = None
    api_key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")] | None = None
    api_key_file: Annotated[str, Field(pattern=r"^/[^\x00-\x1f]+$")] | None = None
    local: bool | None = None
    allowed_hosts: list[str] = Field(default_factory=list)
    ca_file: Annotated[str, Field(pattern=r"^/[^\x00-\x1f]+$")] | None = None

    paths: Annotated[list[str], Field(min_length=1)] = DEFAULT_PATHS
    drop_fields: list[str] = Field(default_factory=list)

    connect_s: float = Field(default=5.0, gt=0)
    pool_s: float = Field(default=5.0, gt=0)
    first_byte_s: float = Field(default=120.0, gt=0)
    read_s: float = Field(default=60.0, gt=0)
    max_connections: int = Field(default=64, ge=1)
    keep_alive_s: float = Field(default=4.0, ge=0)
    max_json_bytes: int = Field(default=8 << 20, ge=1024)
    max_stream_bytes: int = Field(default=64 << 20, ge=1024)

    health_path: Annotated[str, Field(pattern=r"^/[\x21-\x7e]*$")] = "/v1/models"
    health_period_s: float = Field(default=10.0, gt=0)
    health_timeout_s: float = Field(default=5.0, gt=0, le=20)
    breaker: BreakerSettings = BreakerSettings()

    @field_validator("paths")
    @classmethod
    def _known_paths(cls, value: list[str]) -> list[str]:
        for path in value:
            if path not in ENGINE_PATHS:
                raise ValueError(f"`{path}` is not a path of an engine")
        return value

    @field_validator("drop_fields")
    @classmethod
    def _droppable(cls, value: list[str]) -> list[str]:
        for name in value:
            if name in KEPT_FIELDS:
                raise ValueError(f"`{name}` cannot be dropped from a request")
        return value

    @field_validator("base_url")
    @classmethod
    def _plain_url(cls, value: str) -> str:
        # The value may hold a password by mistake: no message quotes it.
        try:
            parts = urlsplit(value)
            port = parts.port
        except ValueError:
            raise ValueError("base_url is not a URL") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
            raise ValueError("base_url must be an http or https URL with a host")
        if "@" in parts.netloc:
            raise ValueError("base_url must not hold credentials; name them with api_key_env or api_key_file")
        if "?" in value or "#" in value:
            raise ValueError("base_url must not have a query or a fragment")
        if not value.isascii() or not value.isprintable() or " " in value or "\\" in value:
            raise ValueError("base_url may only hold printable ASCII, without blanks")
        return value

    @model_validator(mode="after")
    def _safe(self) -> "UpstreamSettings":
        if self.api_key_env is not None and self.api_key_file is not None:
            raise ValueError("set either `api_key_env` or `api_key_file`, not both")
        if self.is_local:
            return self
        if self.host not in {host.lower() for host in self.allowed_hosts}:
            raise ValueError(f"the host '{self.host}' is not local and not in allowed_hosts")
        if self._parts.scheme != "https":
            raise ValueError("an upstream that is not local must be reached over https")
        return self

    @property
    def _parts(self) -> SplitResult:
        return urlsplit(self.base_url)

    @property
    def host(self) -> str:
        """The upstream's host, lower case."""
        return (self._parts.hostname or "").lower()

    @property
    def is_local(self) -> bool:
        """True when prompts that go there stay on the operator's premises."""
        return is_loopback(self.host) if self.local is None else self.local

    @property
    def name_there(self) -> str:
        """The model's name at the upstream."""
        return self.upstream_model or self.model

    def url(self, path: str) -> str:
        """The URL of `path`; `/v1` stands for the API's root, other paths lie beside it."""
        parts = self._parts
        base = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or '/v1'}"
        if path == "/v1" or path.startswith("/v1/"):
            return base + path.removeprefix("/v1")
        return base.removesuffix("/v1") + path


def is_loopback(host: str) -> bool:
    """True for `localhost` and for addresses of the loopback network; no name is looked up."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def upstream_options(settings: UpstreamSettings) -> dict[str, object]:
    """Serve's options of an upstream's deployment: its replicas need no GPU and no environment of an engine."""
    return serve_options(settings) | plain_actor(settings)

"""What of Gatehouse's own doings leaves the process, and how it is written."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class TracingSettings(BaseModel):
    """Traces by OTLP over HTTP. Off unless there is an `endpoint`; no word of a prompt or an answer is in them.

    Headers that the collector wants, which are mostly secret, stay in `OTEL_EXPORTER_OTLP_HEADERS`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint: Annotated[str, Field(pattern=r"^https?://[^\s@]+$")] | None = Field(
        default=None, description="Where traces go, such as http://jaeger:4318/v1/traces; none: nothing is traced."
    )
    ratio: float = Field(
        default=1.0, ge=0, le=1, description="Which share of requests is traced. A caller's own trace is continued in "
        "the same share of cases: nobody else decides how much is sent.",
    )  # fmt: skip
    service: str = Field(default="gatehouse", min_length=1, max_length=64, description="The name of this service.")


class LogSettings(BaseModel):
    """How an ingress replica writes its log."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoding: Literal["text", "json"] = Field(
        default="text",
        description="`json`: one object a line, without the texts of exceptions, which may quote a request.",
    )

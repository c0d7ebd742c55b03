"""`gatehouse schema | check-config | serve-config`: configuration and records, for editors and for machines."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
import yaml

from deployments.audit.schema_doc import json_schema_text, markdown
from serve_app.cli.client import fail
from serve_app.config import AppConfig, ConfigError, find, load_serve_file


class Schema(StrEnum):
    """What there is a schema of."""

    CONFIG = "config"
    AUDIT = "audit"
    AUDIT_RECORD = "audit-record"


def schema(
    what: Annotated[
        Schema, typer.Argument(help="config: JSON; audit: a document; audit-record: JSON.")
    ] = Schema.CONFIG,
) -> None:
    """Print a schema as it is committed.

    config: the configuration (configs/app.schema.json). audit: the events and fields of the audit log
    (docs/audit-schema.md). audit-record: the same as a JSON Schema (configs/audit-record.schema.json).
    """
    texts = {Schema.CONFIG: schema_text, Schema.AUDIT: markdown, Schema.AUDIT_RECORD: json_schema_text}
    typer.echo(texts[what](), nl=False)


def schema_text() -> str:
    """The schema as it is committed; a test compares the two."""
    return json.dumps(AppConfig.model_json_schema(), indent=2, sort_keys=True) + "\n"


def check_config(path: Annotated[str, typer.Argument(help="A Serve config file.")]) -> None:
    """Read a Serve config file and say in one sentence what is wrong with it."""
    try:
        file = load_serve_file(find(path))
    except ConfigError as error:
        fail(str(error), 2)
    models = ", ".join(
        f"{model.tier.value}={model.engine.model}" if model.tier else model.engine.model for model in file.app.models
    )
    typer.echo(f"{Path(path).name}: profile {file.app.profile}, {models}, {file.host}:{file.port}")


def serve_config(
    path: Annotated[str, typer.Argument(help="A Serve config file.")] = "configs/serve.local.yaml",
) -> None:
    """Print the checked file as a RayService's `serveConfigV2` wants it: every setting written out."""
    try:
        file = load_serve_file(find(path))
    except ConfigError as error:
        fail(str(error), 2)
    document = yaml.safe_load(file.path.read_text(encoding="utf-8"))
    document["applications"][0]["args"] = file.app.model_dump(mode="json")
    typer.echo(yaml.safe_dump(document, sort_keys=False), nl=False)

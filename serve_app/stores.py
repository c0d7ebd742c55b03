"""Where each feature keeps its tables: the configured database, or a SQLite file of its own."""

from pathlib import Path
from typing import Final

from sqlalchemy.engine import make_url

from deployments.migrations.runner import FEATURES, Feature
from deployments.store import sqlite_url
from serve_app.config import AppConfig

FILES: Final[dict[Feature, str]] = {
    "tenancy": "ledger.db",
    "gate": "gate.db",
    "responses": "responses.db",
    "difficulty": "router.db",
    "rollout": "rollout.db",
}


def store_url(config: AppConfig, feature: Feature) -> str:
    """The state store of a feature."""
    return config.store_url or sqlite_url(config.state_path / "state" / FILES[feature])


def databases(config: AppConfig) -> dict[str, tuple[Feature, ...]]:
    """Every database by its URL, with the features that share it."""
    found: dict[str, tuple[Feature, ...]] = {}
    for feature in FEATURES:
        url = store_url(config, feature)
        found[url] = (*found.get(url, ()), feature)
    return found


def sqlite_file(url: str) -> Path | None:
    """The file of a SQLite store; None for a store on a server."""
    parsed = make_url(url)
    return Path(parsed.database or "") if parsed.get_backend_name() == "sqlite" else None

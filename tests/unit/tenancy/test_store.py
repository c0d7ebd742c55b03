import sqlite3
from pathlib import Path

import pytest

from deployments.ports import KeyId
from deployments.store import open_store, sqlite_url
from deployments.tenancy.budgets import budget_of_key
from deployments.tenancy.store import TenancyStore

# The tables as they were before keys had a hold time and a budget.
BEFORE_BUDGETS = """
CREATE TABLE tenancy_facts (name VARCHAR(64) NOT NULL, value BLOB NOT NULL, PRIMARY KEY (name));
CREATE TABLE keys (
    key_id VARCHAR(64) NOT NULL, prefix VARCHAR(16) NOT NULL, digest BLOB NOT NULL, tenant VARCHAR(128) NOT NULL,
    name VARCHAR(256) NOT NULL, person VARCHAR(256), scopes VARCHAR(256) NOT NULL, models VARCHAR,
    gate_profile VARCHAR(32) NOT NULL, created_ms BIGINT NOT NULL, expires_ms BIGINT, revoked_ms BIGINT,
    PRIMARY KEY (key_id), UNIQUE (prefix)
);
CREATE INDEX ix_keys_tenant ON keys (tenant);
CREATE TABLE grants (
    grant_id VARCHAR(64) NOT NULL, tenant VARCHAR(128) NOT NULL, key_id VARCHAR(64) NOT NULL,
    request_id VARCHAR(128) NOT NULL, model VARCHAR(256) NOT NULL, reserved_tokens BIGINT NOT NULL,
    created_ms BIGINT NOT NULL, settled_ms BIGINT, PRIMARY KEY (grant_id)
);
CREATE INDEX grants_open ON grants (key_id, settled_ms, created_ms);
CREATE TABLE usage (
    grant_id VARCHAR(64) NOT NULL, tenant VARCHAR(128) NOT NULL, key_id VARCHAR(64) NOT NULL,
    request_id VARCHAR(128) NOT NULL, model VARCHAR(256) NOT NULL, input_tokens BIGINT NOT NULL,
    cached_tokens BIGINT NOT NULL, output_tokens BIGINT NOT NULL, reasoning_tokens BIGINT NOT NULL,
    estimated BOOLEAN NOT NULL, settled_ms BIGINT NOT NULL, PRIMARY KEY (grant_id)
);
CREATE INDEX ix_usage_tenant ON usage (tenant);
"""
OLD_KEY = """
INSERT INTO keys (key_id, prefix, digest, tenant, name, scopes, gate_profile, created_ms)
VALUES ('key_old', 'prefix', x'00', 'acme', 'agent', 'inference', 'ops', 1)
"""
NOW_MS = 1_767_225_600_000
GRANTS = """
INSERT INTO grants (grant_id, tenant, key_id, request_id, model, reserved_tokens, created_ms, settled_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
USAGE = """
INSERT INTO usage (grant_id, tenant, key_id, request_id, model, input_tokens, cached_tokens, output_tokens,
    reasoning_tokens, estimated, settled_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


@pytest.fixture
def old_file(tmp_path: Path) -> Path:
    path = tmp_path / "tenancy.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(BEFORE_BUDGETS)
        connection.execute(OLD_KEY)
    connection.close()
    return path


async def test_a_key_of_an_earlier_version_waits_for_nothing_and_has_no_budget(old_file: Path) -> None:
    store = TenancyStore(open_store(sqlite_url(old_file)))
    await store.create_tables()
    [record] = await store.keys(None)
    assert (record.key_id, record.hold_s, record.budget_tokens) == ("key_old", 0, None)
    with sqlite3.connect(old_file) as connection:
        indexes = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}
    assert "ix_keys_previous_prefix" in indexes
    connection.close()
    await store.close()


async def test_a_file_is_brought_up_to_date_once(old_file: Path) -> None:
    store = TenancyStore(open_store(sqlite_url(old_file)))
    await store.create_tables()
    await store.create_tables()
    assert len(await store.keys(None)) == 1
    await store.close()


async def test_an_earlier_version_can_still_write_to_the_file(old_file: Path) -> None:
    store = TenancyStore(open_store(sqlite_url(old_file)))
    await store.create_tables()
    await store.close()
    with sqlite3.connect(old_file) as connection:
        connection.execute(OLD_KEY.replace("key_old", "key_older").replace("'prefix'", "'other'"))
        found = connection.execute("SELECT hold_s, budget_tokens FROM keys").fetchall()
    connection.close()
    assert found == [(0, None), (0, None)]


async def test_accounts_are_those_of_keys_with_a_budget(old_file: Path) -> None:
    store = TenancyStore(open_store(sqlite_url(old_file)))
    await store.create_tables()
    assert await store.budgets.accounts(NOW_MS) == []
    with sqlite3.connect(old_file) as connection:
        connection.execute(OLD_KEY.replace("key_old", "key_new").replace("'prefix'", "'other'"))
        connection.execute("UPDATE keys SET budget_tokens = 100 WHERE key_id = 'key_new'")
        for key in ("key_old", "key_new"):
            usage = [f"{key}_1", "acme", key, "r", "m", 10, 9, 5, 4, False, 1]
            settled, waiting = [f"{key}_1", "acme", key, "r", "m", 50, 1, 1], [f"{key}_2", "acme", key, "r", "m", 30, 1]
            connection.execute(USAGE, usage)
            connection.execute(GRANTS, settled)
            connection.execute(GRANTS, [*waiting, None])
    connection.close()
    [account] = await store.budgets.accounts(NOW_MS)
    assert (account.budget, account.used, account.reserved) == (
        budget_of_key(KeyId("key_new"), "acme", 100), 15, {"key_new_2": 30},
    )  # fmt: skip
    await store.close()

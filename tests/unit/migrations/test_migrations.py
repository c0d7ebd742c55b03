"""The tables of every feature, up and down with data, on both backends."""

import asyncio
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import MetaData, text

from deployments.difficulty import store as difficulty_store
from deployments.errors import GateUnavailable
from deployments.gate import schema as gate_schema
from deployments.gate.store import ApprovalStore
from deployments.migrations.runner import (
    FEATURES,
    Feature,
    Migrations,
    SchemaError,
    downgrade,
    migrate,
    migrations,
    standing,
    upgrade,
)
from deployments.migrations.tables import bring_up
from deployments.responses import store as responses_store
from deployments.rollout import store as rollout_store
from deployments.store import open_store, sqlite_url
from deployments.tenancy import tables as tenancy_tables
from tests.unit.migrations.databases import Rows, connected, fill, ours, revisions, rows, shape

OF_THE_CODE: dict[Feature, MetaData] = {
    "tenancy": tenancy_tables.metadata,
    "gate": gate_schema.metadata,
    "responses": responses_store._metadata,
    "difficulty": difficulty_store._metadata,
    "rollout": rollout_store._metadata,
}
every_feature = pytest.mark.parametrize("feature", FEATURES)


def baseline(feature: Feature) -> MetaData:
    """The tables of the first revision."""
    module = __import__(f"deployments.migrations.{feature}.r0001_baseline", fromlist=["metadata"])
    return module.metadata


def chain_of(tmp_path: Path, *bodies: str) -> Migrations:
    """The revisions of responses, and further ones: for each its line `breaks_previous`, upgrade and downgrade."""
    directory = tmp_path / "chain %d"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    shutil.copy(migrations("responses").directory / "r0001_baseline.py", directory)
    for number, body in enumerate(bodies, 2):
        head = f'import sqlalchemy as sa\nfrom alembic import op\n\nrevision = "responses_{number:04d}"\n'
        head += f'down_revision = "responses_{number - 1:04d}"\n'
        (directory / f"r{number:04d}.py").write_text(head + body)
    return Migrations("responses", directory)


ADDS = """
breaks_previous = False

def upgrade():
    op.add_column("responses", sa.Column("colour", sa.String(8)))
    op.create_table("palettes", sa.Column("name", sa.String(8), primary_key=True))

def downgrade():
    op.drop_table("palettes")
    with op.batch_alter_table("responses") as batch:
        batch.drop_column("colour")
"""
RENAMES = """
breaks_previous = True

def upgrade():
    with op.batch_alter_table("responses") as batch:
        batch.alter_column("frame", new_column_name="wrapping")

def downgrade():
    with op.batch_alter_table("responses") as batch:
        batch.alter_column("wrapping", new_column_name="frame")
"""
FAILS = """
breaks_previous = False

def upgrade():
    op.add_column("responses", sa.Column("colour", sa.String(8)))
    op.execute("UPDATE responses SET colour = 'red'")
    op.execute("INSERT INTO no_such_table VALUES (1)")

def downgrade():
    with op.batch_alter_table("responses") as batch:
        batch.drop_column("colour")
    op.execute("DELETE FROM no_such_table")
"""


def only(found: Rows, names: dict[str, list[str]]) -> Rows:
    """Rows cut down to these columns of these tables."""
    return {table: [{name: row[name] for name in columns} for row in found[table]] for table, columns in names.items()}


def columns_of(found: Rows) -> dict[str, list[str]]:
    return {table: [*lines[0]] for table, lines in found.items()}


# --- the revisions are the tables of the code ------------------------------------------------------------------------


@every_feature
def test_whoever_changes_a_table_writes_a_revision(feature: Feature, url: str, another_url: str) -> None:
    upgrade(url, migrations(feature))
    with connected(url) as connection:
        options = {
            "version_table": migrations(feature).version_table,
            "compare_type": True,
            "compare_server_default": True,
            "include_name": lambda name, kind, _parents: kind != "table" or ours(name),
        }
        missing = compare_metadata(MigrationContext.configure(connection, opts=options), OF_THE_CODE[feature])
    assert missing == [], f"deployments/migrations/{feature} needs a revision that does this"
    with connected(another_url) as connection:
        OF_THE_CODE[feature].create_all(connection)
    assert shape(url) == shape(another_url)


@every_feature
def test_revisions_are_one_line_with_numbers_that_rise(feature: Feature) -> None:
    found = [*migrations(feature).breaking]
    assert found == [f"{feature}_{number:04d}" for number in range(1, len(found) + 1)]
    assert not migrations(feature).breaking[found[0]]


# --- up and down -----------------------------------------------------------------------------------------------------


@every_feature
def test_every_step_up_and_down_keeps_the_rows(feature: Feature, url: str) -> None:
    chain = migrations(feature)
    known = [*chain.breaking]
    assert upgrade(url, chain, known[0]) == (known[0],)
    before, shapes = fill(url), [shape(url)]
    assert before
    assert all(len(lines) == 3 for lines in before.values())
    for revision in known[1:]:
        assert upgrade(url, chain, revision) == (revision,)
        assert only(rows(url), columns_of(before)) == before
        shapes.append(shape(url))
    assert standing(url, chain).usable
    for revision in reversed(known[:-1]):
        assert len(downgrade(url, chain, revision)) == 1
        shapes.pop()
        assert shape(url) == shapes[-1]
    assert rows(url) == before
    assert downgrade(url, chain, None) == (known[0],)
    assert (shape(url), revisions(url)) == ({}, {})


def test_a_step_down_loses_what_its_step_up_added_and_nothing_else(tmp_path: Path, url: str) -> None:
    chain = chain_of(tmp_path, ADDS, RENAMES)
    upgrade(url, chain, "responses_0001")
    before, first = fill(url), shape(url)
    assert upgrade(url, chain) == ("responses_0002", "responses_0003")
    assert {row["colour"] for row in rows(url)["responses"]} == {None}
    assert [row["wrapping"] for row in rows(url)["responses"]] == [row["frame"] for row in before["responses"]]
    with connected(url) as connection:
        connection.execute(text("UPDATE responses SET colour = 'red'"))
        connection.execute(text("INSERT INTO palettes VALUES ('warm')"))
    assert downgrade(url, chain, "responses_0001") == ("responses_0003", "responses_0002")
    assert (rows(url), shape(url)) == (before, first)


def test_what_is_up_to_date_is_left_alone(tmp_path: Path, url: str) -> None:
    chain = chain_of(tmp_path, ADDS)
    assert upgrade(url, chain) == ("responses_0001", "responses_0002")
    assert upgrade(url, chain) == upgrade(url, chain, "responses_0001") == ()
    assert downgrade(url, chain, "responses_0002") == ()


def test_there_is_no_way_down_to_what_does_not_exist(tmp_path: Path, url: str) -> None:
    with pytest.raises(SchemaError, match="no revision responses_0009 of responses; there are responses_0001"):
        downgrade(url, chain_of(tmp_path), "responses_0009")


# --- databases from before there were migrations ---------------------------------------------------------------------


@every_feature
@pytest.mark.parametrize("of_today", [False, True], ids=["old", "of today"])
def test_tables_that_no_migration_made_are_recognised(feature: Feature, url: str, of_today: bool) -> None:
    with connected(url) as connection:
        (OF_THE_CODE[feature] if of_today else baseline(feature)).create_all(connection)
    before = fill(url)
    chain = migrations(feature)
    found = standing(url, chain)
    assert (found.present, found.newer, found.behind) == (None, False, tuple(chain.breaking))
    upgrade(url, chain)
    assert only(rows(url), columns_of(before)) == before
    assert revisions(url) == {chain.version_table: chain.head}


@every_feature
def test_any_missing_table_or_index_is_made(feature: Feature, url: str, another_url: str) -> None:
    whole = baseline(feature)
    upgrade(another_url, migrations(feature), [*migrations(feature).breaking][0])
    with connected(url) as connection:
        for gone in whole.sorted_tables:
            whole.create_all(connection)
            gone.drop(connection)
            bring_up(connection, whole)
            for index in sorted(gone.indexes, key=lambda each: str(each.name)):
                index.drop(connection)
                bring_up(connection, whole)
    assert shape(url) == shape(another_url)


def test_keys_of_any_earlier_version_are_brought_up(url: str, another_url: str) -> None:
    """Their table grew at its end, column by column."""
    chain = migrations("tenancy")
    upgrade(another_url, chain)
    columns = [column.name for column in baseline("tenancy").tables["keys"].columns]
    for have in range(columns.index("hold_s"), len(columns)):
        with connected(url) as connection:
            baseline("tenancy").create_all(connection)
            for index in ("ix_keys_previous_prefix",) if have <= columns.index("previous_prefix") else ():
                connection.execute(text(f"DROP INDEX {index}"))
            for name in columns[have:]:
                connection.execute(text(f"ALTER TABLE keys DROP COLUMN {name}"))
        before = fill(url)
        upgrade(url, chain)
        assert only(rows(url), columns_of(before)) == before
        assert {row["hold_s"] for row in rows(url)["keys"]} == ({0} if have == columns.index("hold_s") else {1, 2, 3})
        assert shape(url) == shape(another_url)
        downgrade(url, chain, None)


# --- together, and with other versions -------------------------------------------------------------------------------


def test_of_replicas_that_start_together_one_migrates(url: str) -> None:
    chain = migrations("gate")
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as replicas:
        done = [each.result() for each in [replicas.submit(upgrade, url, chain) for _ in range(3)]]
    assert sorted(done) == [(), (), tuple(chain.breaking)]
    assert revisions(url) == {chain.version_table: chain.head}


async def test_features_that_share_a_database_and_a_process_start_together(url: str) -> None:
    engines = [open_store(url) for _ in FEATURES]
    await asyncio.gather(*(migrate(engine, feature) for engine, feature in zip(engines, FEATURES, strict=True)))
    for engine in engines:
        await engine.dispose()
    assert revisions(url) == {migrations(each).version_table: migrations(each).head for each in FEATURES}
    assert set(shape(url)) == {name for each in FEATURES for name in OF_THE_CODE[each].tables}


def test_a_step_that_fails_leaves_everything_as_it_was(tmp_path: Path, url: str) -> None:
    chain = chain_of(tmp_path)
    upgrade(url, chain)
    before, first, at = fill(url), shape(url), revisions(url)
    with pytest.raises(SchemaError, match=r"responses could not be upgraded, and are as they were: .*no_such_table"):
        upgrade(url, chain_of(tmp_path, ADDS.replace("colour", "shade"), FAILS.replace("breaks_previous", "other")))
    assert (rows(url), shape(url), revisions(url)) == (before, first, at)


def test_a_step_back_that_fails_leaves_everything_as_it_was(tmp_path: Path, url: str) -> None:
    chain = chain_of(tmp_path, FAILS.replace('    op.execute("INSERT INTO no_such_table VALUES (1)")\n', ""))
    upgrade(url, chain)
    before, first, at = fill(url), shape(url), revisions(url)
    with pytest.raises(SchemaError, match=r"responses could not be taken back, and are as they were: .*no_such_table"):
        downgrade(url, chain, "responses_0001")
    assert (rows(url), shape(url), revisions(url)) == (before, first, at)


def test_an_earlier_version_goes_on_with_what_does_not_break_it(tmp_path: Path, url: str) -> None:
    later = chain_of(tmp_path, ADDS)
    upgrade(url, later)
    earlier = migrations("responses")
    found = standing(url, earlier)
    assert (found.present, found.newer, found.usable) == ("responses_0002", True, True)
    assert upgrade(url, earlier) == ()
    assert revisions(url) == {"alembic_version_responses": "responses_0002"}
    assert fill(url)["responses"][0]["colour"] is not None


def test_an_earlier_version_refuses_what_breaks_it(tmp_path: Path, url: str) -> None:
    later = chain_of(tmp_path, RENAMES, ADDS)
    upgrade(url, later)
    earlier, first = migrations("responses"), shape(url)
    assert not standing(url, earlier).usable
    with pytest.raises(SchemaError, match="responses are at revision responses_0003, which a later version"):
        upgrade(url, earlier)
    with pytest.raises(SchemaError, match="only the version that made it can take it back"):
        downgrade(url, earlier, "responses_0001")
    assert (shape(url), revisions(url)) == (first, {"alembic_version_responses": "responses_0003"})
    downgrade(url, later, "responses_0001")
    assert upgrade(url, earlier) == ()


async def test_a_replica_does_not_start_on_tables_that_it_does_not_know(tmp_path: Path, url: str) -> None:
    upgrade(url, chain_of(tmp_path, RENAMES))
    rows = responses_store.ResponseRows(open_store(url))
    with pytest.raises(SchemaError, match="start that version"):
        await rows.open()
    await rows.close()


async def test_the_gate_says_why_it_does_not_start(url: str) -> None:
    upgrade(url, migrations("gate"))
    with connected(url) as connection:
        connection.execute(text("UPDATE alembic_version_gate SET version_num = 'gate_9999'"))
        connection.execute(text("UPDATE gatehouse_schema SET works_with = 'gate_9998 gate_9999'"))
    store = ApprovalStore(open_store(url))
    with pytest.raises(GateUnavailable, match="gate_9999"):
        await store.open()
    await store.engine.dispose()


def test_looking_creates_no_file(tmp_path: Path) -> None:
    found = standing(sqlite_url(tmp_path / "none.db"), migrations("gate"))
    assert (found.present, found.behind) == (None, tuple(migrations("gate").breaking))
    assert not [*tmp_path.iterdir()]

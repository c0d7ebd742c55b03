"""`gatehouse db`, and where the stores are."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from deployments.migrations.runner import FEATURES, migrations
from serve_app.cli.main import app
from serve_app.stores import databases, sqlite_file
from tests.unit.cli.installations import config_of, serve_file

RUNNER = CliRunner()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return serve_file(tmp_path)


def db(command: str, file: Path, *arguments: str, status: int = 0) -> Result:
    result = RUNNER.invoke(app, ["db", command, *arguments, "--config", str(file)])
    assert result.exit_code == status, (result.output, result.exception)
    return result


def standings(file: Path, status: int = 0) -> dict[str, dict[str, object]]:
    return {each["feature"]: each for each in json.loads(db("status", file, "--json", status=status).stdout)}


def execute(file: Path, store: str, *statements: str) -> None:
    with closing(sqlite3.connect(config_of(file).state_path / "state" / store)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def test_looking_makes_nothing(file: Path) -> None:
    found = standings(file)
    assert [*found] == [*FEATURES]
    assert all(each["present"] is None and each["behind"] for each in found.values())
    assert not config_of(file).state_path.exists()


def test_tables_go_up_and_down(file: Path) -> None:
    config_of(file).state_path.joinpath("state").mkdir(parents=True)
    assert "gate: gate_0001" in db("upgrade", file).stdout
    assert {each["present"] for each in standings(file).values()} == {migrations(each).head for each in FEATURES}
    assert "up to date" in db("status", file).stdout
    assert db("upgrade", file).stdout.count("nothing to do") == len(FEATURES)
    assert "all rows would be deleted" in db("downgrade", file, "gate", "--to", "base", status=2).stderr
    assert standings(file)["gate"]["present"] == migrations("gate").head
    assert "nothing to do" in db("downgrade", file, "gate", "--to", migrations("gate").head).stdout
    assert "gate_0001 taken back" in db("downgrade", file, "gate", "--to", "base", "--delete-all-rows").stdout
    assert standings(file)["gate"]["present"] is None
    assert standings(file)["tenancy"]["present"] == migrations("tenancy").head


def test_what_cannot_be_is_said(file: Path) -> None:
    assert "there is no feature nobody" in db("downgrade", file, "nobody", "--to", "x", status=2).stderr
    config_of(file).state_path.joinpath("state").mkdir(parents=True)
    db("upgrade", file)
    assert "no revision gate_0099" in db("downgrade", file, "gate", "--to", "gate_0099", status=1).stderr
    execute(
        file, "gate.db", "UPDATE alembic_version_gate SET version_num = 'gate_0099'", "DELETE FROM gatehouse_schema"
    )
    assert standings(file, status=1)["gate"]["usable"] is False
    assert "of a later version: REFUSED" in db("status", file, status=1).stdout
    assert "gate_0099, which a later version" in db("upgrade", file, status=1).stderr
    assert "only the version that made it" in db("downgrade", file, "gate", "--to", "gate_0001", status=1).stderr


def test_a_store_that_does_not_answer_is_said_without_its_password(tmp_path: Path) -> None:
    file = serve_file(tmp_path, f"postgresql+psycopg://gate:s3cret@/x?host={tmp_path}")
    result = db("status", file, status=2)
    assert "the state store does not answer (OperationalError)" in result.stderr
    assert "s3cret" not in result.output


def test_features_have_a_file_each_or_share_a_database(tmp_path: Path, file: Path) -> None:
    state = config_of(file).state_path / "state"
    found = databases(config_of(file))
    assert {sqlite_file(url): features for url, features in found.items()} == {
        state / "ledger.db": ("tenancy",),
        state / "gate.db": ("gate",),
        state / "responses.db": ("responses",),
        state / "router.db": ("difficulty",),
        state / "rollout.db": ("rollout",),
    }
    shared = databases(config_of(serve_file(tmp_path, "postgresql+psycopg://db.example/gatehouse")))
    assert shared == {"postgresql+psycopg://db.example/gatehouse": FEATURES}

"""The commands: exit codes, and one sentence for whatever is wrong."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serve_app.cli.bundle import app
from tests.unit.bundle.tiny import World


def call(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output.strip()


def test_verify_says_who_signed_and_how_much_it_is(made: Path, world: World) -> None:
    code, output = call("verify", made, "--key", world.public)
    assert code == 0
    assert output.startswith("21 files, 0.00 GiB, Gatehouse 9.9 (cpu), signed by ")
    code, output = call("verify", made, "--unsigned", "--json")
    said = json.loads(output)
    assert (code, said["ok"], said["signed_by"], said["version"]) == (0, True, None, "9.9")


def test_verify_names_what_has_changed_with_status_1(bundle: Path, world: World) -> None:
    (bundle / "images.txt").write_text("")
    assert call("verify", bundle, "--key", world.public) == (1, "gatehouse: 1 of 21 files has changed: images.txt.")


@pytest.mark.parametrize("command", ["verify", "install"])
@pytest.mark.parametrize("both", [True, False], ids=["both", "neither"])
def test_nobody_is_trusted_by_accident(made: Path, world: World, tmp_path: Path, command: str, both: bool) -> None:
    more = ["--key", world.public, "--unsigned"] if both else []
    into = ["--into", tmp_path / "target"] if command == "install" else []
    code, output = call(command, made, *into, *more)
    assert code == 2
    assert "whose signature the bundle must have" in output
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "say who signs the bundle"),
        (("--unsigned", "--sign-with", "key"), "say who signs the bundle"),
        (("--sign-with", "nokey.pem"), "the signing key nokey.pem cannot be read"),
        (("--unsigned", "--config", "nofile.yaml"), "the file nofile.yaml does not exist"),
        (("--unsigned", "--weights", "demo-20b"), "'demo-20b' is not MODEL=DIR"),
        (("--unsigned", "--weights", "nobody=/tmp"), "nobody is no model with weights"),
        (("--unsigned", "--add", "nothing"), "nothing is neither a file nor a folder"),
    ],
    ids=["unsaid", "both", "key", "config", "weights", "model", "add"],
)
def test_create_refuses_in_one_sentence(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    code, output = call("create", "--to", tmp_path / "bundle", *arguments)
    assert code == 2
    assert message in output
    assert len(output.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_belongs_is_one_sentence(made: Path, world: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, output = call("install", made, "--into", tmp_path / "file", "--key", world.public)
    assert (code, len(output.splitlines())) == (1, 1)
    assert call("verify", tmp_path / "file", "--key", world.public)[0] == 1

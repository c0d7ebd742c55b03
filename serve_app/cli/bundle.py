"""`gatehouse bundle`: carry everything to a machine without a network, and know that it arrived as it was sent.

`verify` and `install` run with the project's plain dependencies; what else `create` needs is imported when it runs.
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from deployments.clock import SystemClock
from serve_app.bundle.layout import BundleRefused
from serve_app.bundle.signature import public_key, signing_key
from serve_app.cli.offline import fail, putting_away

app = typer.Typer(help="Carry everything to a machine without a network.", no_args_is_help=True)
_Bundle = Annotated[Path, typer.Argument(help="The folder of the bundle.")]
_Key = Annotated[Path | None, typer.Option(help="The Ed25519 public key (PEM) of whoever must have made it.")]
_Unsigned = Annotated[bool, typer.Option("--unsigned", help="Ask for nobody's signature.")]
_Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@app.command("create")
@putting_away()
def make(
    to: Annotated[Path, typer.Option(help="The folder to make; it must not exist.")],
    config: Annotated[
        str, typer.Option(help="The Serve config file that will run there.")
    ] = "configs/serve.local.yaml",
    sign_with: Annotated[Path | None, typer.Option(help="An Ed25519 private key in PEM, mode 0600.")] = None,
    unsigned: Annotated[bool, typer.Option("--unsigned", help="Make one that nobody has signed.")] = False,
    weights: Annotated[
        list[str] | None, typer.Option(help="MODEL=DIR: where a checkpoint lies on this machine; repeat.")
    ] = None,
    overlay: Annotated[list[Path] | None, typer.Option(help="An overlay of kuberay/ to render; repeat.")] = None,
    add: Annotated[
        list[Path] | None, typer.Option(help="A file or folder to take along: images, charts, packages; repeat.")
    ] = None,
    wheels: Annotated[
        list[Path] | None, typer.Option(help="A folder with wheels, asked beside pip's own places; repeat.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Gather wheels, weights, vocabulary, policies, manifests and a bill of materials, listed and signed.

    Run in a checkout, with a network. Exit status: 0 made, 2 not made.
    """
    from serve_app.bundle.contents import Overlay, contents
    from serve_app.bundle.create import create
    from serve_app.cli.manifests import images, render_fresh
    from serve_app.config import ROOT, ConfigError, environment, find, load_serve_file

    if (sign_with is None) != unsigned:
        fail("say who signs the bundle, --sign-with KEY, or that nobody does, --unsigned.")
    try:
        key = None if sign_with is None else signing_key(sign_with)
        gathered = contents(
            ROOT,
            load_serve_file(find(config)),
            weights=dict(_named(each) for each in weights or ()),
            overlays=[Overlay(each.resolve().name, text := render_fresh(each), images(text)) for each in overlay or ()],
            added=add or (),
        )
        made = create(
            gathered, to, key, SystemClock().now_ms(), environment(), wheels=wheels or (),
            say=_quiet if as_json else typer.echo,
        )  # fmt: skip
    except (BundleRefused, ConfigError) as error:
        fail(str(error))
    except OSError as error:
        fail(f"the bundle could not be made: {error}.")
    said = made.manifest
    if as_json:
        typer.echo(json.dumps({"bundle": str(to), "sha256": made.digest, **said.model_dump(mode="json")}))
        return
    typer.echo(f"{to}: {said.bytes / 2**30:.2f} GiB, {'not signed' if key is None else 'signed'}.")
    typer.echo(f"Keep this elsewhere: SHA-256 of SHA256SUMS {made.digest}")


@app.command("verify")
def check(bundle: _Bundle, key: _Key = None, unsigned: _Unsigned = False, as_json: _Json = False) -> None:
    """Read every byte of a bundle, and say which file is missing, added or changed.

    Exit status: 0 it is what was signed, 1 it is not.
    """
    from serve_app.bundle.verify import verify

    _one(key, unsigned)
    try:
        found = verify(bundle, None if key is None else public_key(key))
    except BundleRefused as error:
        fail(str(error), 1)
    said = found.manifest
    if as_json:
        names = {"ok": True, "sha256": found.digest, "signed_by": found.signed_by, "files": len(found.sums)}
        typer.echo(json.dumps({**names, **said.model_dump(mode="json")}))
        return
    signed = "nobody was asked who made it" if found.signed_by is None else f"signed by {found.signed_by}"
    typer.echo(
        f"{len(found.sums)} files, {said.bytes / 2**30:.2f} GiB, Gatehouse {said.version} ({said.build}), {signed}."
    )


@app.command("install")
@putting_away()
def put(
    bundle: _Bundle,
    into: Annotated[Path, typer.Option(help="The folder to install into; releases lie side by side in it.")],
    key: _Key = None,
    unsigned: _Unsigned = False,
    as_json: _Json = False,
) -> None:
    """Install a bundle without a network, and print the next command. A second time it finds that it is done.

    Exit status: 0 installed and in use, 1 not; what was in use before still is.
    """
    from serve_app.bundle.install import install

    _one(key, unsigned)
    try:
        done = install(
            bundle, into, None if key is None else public_key(key), say=_quiet if as_json else typer.echo
        )  # fmt: skip
    except BundleRefused as error:
        fail(str(error), 1)
    if as_json:
        typer.echo(json.dumps({"release": str(done.release), "fresh": done.fresh, "command": done.command}))
        return
    typer.echo(f"{done.release}: {'installed' if done.fresh else 'installed before'}. Next:\n  {done.command}")


def _one(key: Path | None, unsigned: bool) -> None:
    if (key is None) != unsigned:
        fail("say whose signature the bundle must have, --key KEY, or that you ask for none, --unsigned.")


def _named(text: str) -> tuple[str, Path]:
    name, separator, folder = text.partition("=")
    if not separator or not name or not folder:
        raise BundleRefused(f"'{text}' is not MODEL=DIR.")
    return name, Path(folder)


def _quiet(line: str) -> None:
    del line

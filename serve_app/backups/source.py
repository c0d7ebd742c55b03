"""What a configuration says is to be backed up."""

import os
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path

from serve_app.backups.manifest import BackupError, HeldEntry, NamedEntry, inside
from serve_app.backups.named import Named, left_to_the_site, named_files
from serve_app.backups.places import place_in_backup
from serve_app.backups.take import Source
from serve_app.config import ROOT, ServeFile
from serve_app.stores import databases


def source_of(file: ServeFile) -> Source:
    """The state of an installation by its Serve config file.

    `ConfigError` when a file that it names is not there, `BackupError` for one with a name that no backup holds.
    """
    config = file.app
    found = named_files(config, (Path.cwd(), ROOT))
    place = partial(place_in_backup, state=Path(os.path.abspath(config.state_path)), installation=ROOT)
    files: dict[str, Path] = {}
    links: dict[str, str] = {}
    for path in (path for each in found for path in each.files):
        there = path.resolve()
        if there.name == path.name:
            there = path
        else:  # its name is part of a revision, and is that of the file
            links[_inside(place(path), path)] = place(there)
        files[_inside(place(there), there)] = there
    return Source(
        state=config.state_path,
        databases=databases(config),
        audit=config.audit,
        named=[_entry(each, place, links) for each in found],
        files=files,
        links=links,
        left_to_the_site=left_to_the_site(config),
        serve_file=file.path,
        profile=config.profile,
        code_version=version("gatehouse-serving"),
    )


def _inside(name: str, path: Path) -> str:
    try:
        return inside(name)
    except ValueError:
        raise BackupError(f"{path} has a name that a backup cannot hold.") from None


def _entry(named: Named, place: partial[str], links: Mapping[str, str]) -> NamedEntry:
    entry, held = NamedEntry(setting=named.key, path=place(named.path)), named.held
    if held is None:
        return entry
    root = place(held.root)
    found = HeldEntry(kind=held.kind, target=held.target, revision=held.revision, root=links.get(root, root))
    return entry.model_copy(update={"held": found})

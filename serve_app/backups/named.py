"""The files that a configuration names and a rollout reads: policies, prompts, snapshots, the evaluation suite.

Backups and bundles take the same ones, and hold the same revisions against them. Keys are not among them, not even
public ones: whom a site trusts does not come from the medium that it is to check.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from deployments.artefact_files import NotPlain, sums
from deployments.gate.grammar import BundleError
from deployments.gate.signature import signature_path
from deployments.gate.source import read_source
from deployments.rollouts import POLICY_TARGET, ROUTER_TARGET, Kind, revision_of_files
from serve_app.backups.manifest import setting_name
from serve_app.config import AppConfig, ConfigError

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_POLICIES: Final = Path("configs") / "policies"
_MOST_BASES: Final = 16


@dataclass(frozen=True, slots=True)
class Held:
    """The revision that a configuration says its files are. `root`: the file, or the folder all of which it is over."""

    kind: Kind
    target: str
    revision: str
    root: Path


@dataclass(frozen=True, slots=True)
class Named:
    """What one key of a configuration names.

    `setting`: the key below the configuration, or below the model `model`. `path`: the file, absolute, links as they
    were written. `files`: all that are read with it, itself among them. `held` None: nothing is promised of it.
    """

    setting: str
    path: Path
    files: tuple[Path, ...]
    model: str | None = None
    held: Held | None = None

    @property
    def key(self) -> str:
        """The key, for people."""
        return setting_name(self.setting, self.model)


def named_files(config: AppConfig, bases: Sequence[Path]) -> list[Named]:
    """All that the configuration names, each key once. Relative paths are looked for below the `bases`, in order.

    `ConfigError` names the key of a file that is not there, of a policy that cannot be read, and of a folder that is
    no artefact.
    """
    found = [_plain("routing_policy", config.routing_policy, bases)]
    gate, learned, suite = config.gate, config.difficulty.learned, config.rollout.eval.suite
    found.append(_policy("gate.bundle", gate.bundle, gate.revision, bases))
    if gate.shadow_bundle is not None:
        found.append(_policy("gate.shadow_bundle", gate.shadow_bundle, "", bases))
    if gate.candidate is not None:
        found.append(_policy("gate.candidate.bundle", gate.candidate.bundle, gate.candidate.revision, bases))
    if learned.snapshot is not None:
        found.append(_artefact("difficulty.learned.snapshot", learned.snapshot, learned.revision, bases))
    if learned.candidate is not None:
        candidate = learned.candidate
        found.append(_artefact("difficulty.learned.candidate.snapshot", candidate.snapshot, candidate.revision, bases))
    for model in config.models:
        for setting, prompt in (("prompt.path", model.prompt), ("candidate_prompt.path", model.candidate_prompt)):
            if prompt is not None:
                found.append(_artefact(setting, prompt.path, prompt.revision, bases, model.engine.model))
    if suite is not None:
        found.append(_plain("rollout.eval.suite", suite, bases))
    return found


def left_to_the_site(config: AppConfig) -> list[str]:
    """The keys of whom the configuration trusts, as `setting: path`: files that nobody takes along."""
    given = {"gate.bundle_key": config.gate.bundle_key, "rollout.artefact_key": config.rollout.artefact_key}
    return [f"{name}: {path}" for name, path in given.items() if path is not None]


def revision_at(kind: Kind, target: str, root: Path) -> str:
    """The revision of what lies at `root`, a file or a folder. `OSError`, or `ValueError` for anything but files."""
    return revision_of_files(kind, target, sums(root))


def _plain(setting: str, configured: str, bases: Sequence[Path]) -> Named:
    path = _find(setting, configured, bases)
    return Named(setting, path, (path,))


def _artefact(setting: str, configured: str, revision: str, bases: Sequence[Path], model: str | None = None) -> Named:
    """A snapshot, or a prompt of a model: one file."""
    path = _find(setting_name(setting, model), configured, bases)
    kind, target = (Kind.ROUTER, ROUTER_TARGET) if model is None else (Kind.PROMPT, model)
    held = Held(kind, target, revision, path) if _DIGEST.fullmatch(revision) else None
    return Named(setting, path, (path,), model, held)


def _policy(setting: str, configured: str, revision: str, bases: Sequence[Path]) -> Named:
    """A bundle: its file, what it includes and extends, their signatures; all of its folder if its revision is that."""
    if Path(configured).suffix not in {".yaml", ".yml"}:
        configured = str(_POLICIES / f"{configured}.yaml")
    path = _find(setting, configured, bases)
    files = dict.fromkeys(_read_with(setting, path, bases))
    if not _DIGEST.fullmatch(revision):
        return Named(setting, path, tuple(files))
    said = _source(setting, path)
    beside = (path.parent / f"{said.get('extends')}.yaml").is_file()
    root = path.parent if said.get("include") or beside else path
    try:
        below = [root / each.path if root.is_dir() else root for each in sums(root)]
    except NotPlain as error:
        raise ConfigError(f"{setting}: {root} is no artefact: {error}") from None
    except OSError as error:
        raise ConfigError(f"{setting}: {root} cannot be read: {error.strerror}.") from None
    files |= dict.fromkeys(below)
    return Named(setting, path, tuple(files), held=Held(Kind.POLICY, POLICY_TARGET, revision, root))


def _read_with(setting: str, path: Path, bases: Sequence[Path]) -> Iterator[Path]:
    """The files that the gate reads for a bundle, and the signatures of those that have one."""
    for _ in range(_MOST_BASES):
        said = _source(setting, path)
        yield path
        if signature_path(path).is_file():
            yield signature_path(path)
        included: object = said.get("include")
        for name in cast("list[object]", included) if isinstance(included, list) else ():
            if Path(str(name)).is_absolute() or ".." in Path(str(name)).parts:
                raise ConfigError(f"{setting}: an included file must lie below the bundle: '{name}'.")
            yield _find(setting, str(path.parent / str(name)), ())
        extends = said.get("extends")
        if not isinstance(extends, str):
            return
        beside = path.parent / f"{extends}.yaml"
        path = beside if beside.is_file() else _find(setting, str(_POLICIES / f"{extends}.yaml"), bases)
    raise ConfigError(f"{setting}: the bundles extend each other without an end.")


def _source(setting: str, path: Path) -> Mapping[str, Any]:
    try:
        return read_source(path)
    except BundleError as error:
        raise ConfigError(f"{setting}: {error}.") from None


def _find(key: str, configured: str, bases: Sequence[Path]) -> Path:
    given = Path(configured)
    for each in (given,) if given.is_absolute() else (base / given for base in bases):
        if each.is_file():
            return Path(os.path.abspath(each))  # not resolved: a link is named as a link
    raise ConfigError(f"{key}: the file {configured} does not exist.")

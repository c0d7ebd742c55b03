"""A software bill of materials in CycloneDX 1.6 (ECMA-424): wheels, weights, the vocabulary, images.

What a wheel says of itself is read from its own metadata; nothing is looked up and nothing guessed. A licence that is
no SPDX expression is passed on as the name that its author gave.
"""

import email
import email.message
import re
import uuid
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from serve_app.backups.manifest import setting_name
from serve_app.bundle.layout import (
    FILES_DIR,
    VOCABULARY_DIR,
    WHEELS_DIR,
    BundleRefused,
    Manifest,
    NamedEntry,
)
from serve_app.bundle.wheels import PROJECT

_SPACE: Final = uuid.UUID("5d1f0f3e-6c0e-4f57-9d5c-0f7a8a3f2b11")  # of serial numbers: the same files, the same number
_LICENCE: Final = "License :: "
_REQUIRED: Final = re.compile(r"^\s*([A-Za-z0-9][A-Za-z0-9._-]*)")


def bill(root: Path, digests: Mapping[str, str], manifest: Manifest, made_at: str) -> Mapping[str, Any]:
    """The bill of the bundle in `root`, whose files have these SHA-256 `digests` by path. `made_at`: RFC 3339, UTC.

    `BundleRefused` for a wheel without readable metadata.
    """
    wheels = {path: _metadata(root / path) for path in sorted(digests) if path.startswith(f"{WHEELS_DIR}/")}
    refs = {_name(each["Name"]): _purl(each) for each in wheels.values()}
    own = refs[PROJECT]
    parts = [_wheel(path, each, digests[path]) for path, each in wheels.items() if _purl(each) != own]
    parts += [_model(each.model, each.revision, each.folder, digests) for each in manifest.models]
    parts += [_data(path, digests[path]) for path in sorted(digests) if path.startswith(f"{VOCABULARY_DIR}/")]
    parts += _named(manifest.named, digests)
    parts += [_image(each) for each in manifest.images]
    dependencies = [
        {"ref": _purl(each), "dependsOn": sorted(_needed(each, refs) - {_purl(each)})} for each in wheels.values()
    ]
    top = next(each for each in wheels.values() if _purl(each) == own)
    top_path = next(path for path, each in wheels.items() if each is top)
    serial = uuid.uuid5(_SPACE, "".join(f"{digest}  {path}\n" for path, digest in sorted(digests.items())))
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "timestamp": made_at,
            "component": {**_wheel(top_path, top, digests[top_path]), "type": "application"},
        },
        "components": parts,
        "dependencies": sorted(dependencies, key=lambda each: each["ref"]),
    }


def _metadata(wheel: Path) -> email.message.Message:
    try:
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (each for each in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", each))
            found = email.message_from_bytes(archive.read(name))
    except (ValueError, KeyError, OSError, zipfile.BadZipFile):
        raise BundleRefused(f"{wheel.name} is no wheel: its metadata cannot be read.") from None
    if not found["Name"] or not found["Version"]:
        raise BundleRefused(f"{wheel.name} does not say its name and version.")
    return found


def _name(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()


def _purl(metadata: email.message.Message) -> str:
    return f"pkg:pypi/{_name(metadata['Name'])}@{quote(metadata['Version'], safe='.')}"


def _wheel(path: str, metadata: email.message.Message, digest: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "library",
        "bom-ref": _purl(metadata),
        "name": metadata["Name"],
        "version": metadata["Version"],
        "purl": _purl(metadata),
        "hashes": _hashes(digest),
    }
    if metadata["Summary"]:
        found["description"] = str(metadata["Summary"])
    if licences := _licences(metadata):
        found["licenses"] = licences
    return found | {"properties": [{"name": "gatehouse:file", "value": path}]}


def _licences(metadata: email.message.Message) -> Sequence[Mapping[str, Any]]:
    if metadata["License-Expression"]:
        return [{"expression": str(metadata["License-Expression"])}]
    given = next(iter(str(metadata["License"] or "").strip().splitlines()), "")  # some put the whole text there
    if given and given.upper() != "UNKNOWN" and not given.startswith("Copyright") and len(given) <= 100:
        return [{"license": {"name": given}}]
    classified = [str(each) for each in metadata.get_all("Classifier", []) if str(each).startswith(_LICENCE)]
    return [
        {"license": {"name": each.split(" :: ")[-1]}} for each in classified if not each.endswith(":: OSI Approved")
    ]


def _needed(metadata: email.message.Message, refs: Mapping[str, str]) -> set[str]:
    """What a wheel asks for that is in the bundle; markers and extras are not evaluated, absence is what they mean."""
    found = (_REQUIRED.match(str(each)) for each in metadata.get_all("Requires-Dist", []))
    return {refs[_name(each[1])] for each in found if each and _name(each[1]) in refs}


def _model(model: str, revision: str, folder: str, digests: Mapping[str, str]) -> Mapping[str, Any]:
    below = sorted(path for path in digests if path.startswith(f"{folder}/"))
    return {
        "type": "machine-learning-model",
        "bom-ref": f"model:{folder.split('/')[-1]}@{revision}",  # a candidate may have the weights of its engine
        "name": model,
        "version": revision,
        "components": [_file(path, path.removeprefix(f"{folder}/"), digests[path]) for path in below],
    }


def _file(path: str, name: str, digest: str) -> Mapping[str, Any]:
    return {"type": "file", "bom-ref": f"file:{path}", "name": name, "hashes": _hashes(digest)}


def _data(path: str, digest: str) -> Mapping[str, Any]:
    return {**_file(path, path.split("/")[-1], digest), "type": "data"}


def _named(named: Sequence[NamedEntry], digests: Mapping[str, str]) -> Sequence[Mapping[str, Any]]:
    """The files that the configuration names, and what lies with them: each once, with the keys that it belongs to."""
    keys: dict[str, list[str]] = {}
    for each in named:
        folders = [] if each.held is None else [f"{each.held.root}/"]
        if each.path.startswith(f"{FILES_DIR}/"):
            folders.append(f"{each.path.rpartition('/')[0]}/")
        for path in digests:
            if path == each.path or path.startswith(tuple(folders)):
                keys.setdefault(path, []).append(setting_name(each.setting, each.model))
    held = {each.held.root: each.held.revision for each in named if each.held is not None}
    return [
        {
            **_data(path, digests[path]),
            **({"version": held[path]} if path in held else {}),
            "properties": [{"name": "gatehouse:setting", "value": key} for key in keys[path]],
        }
        for path in sorted(keys)
    ]


def _image(image: str) -> Mapping[str, Any]:
    """An image that is named by its digest, as `create` makes sure."""
    name, _, digest = image.partition("@")
    base, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:  # the colon of a port
        base, tag = name, ""
    found: dict[str, Any] = {"type": "container", "bom-ref": f"image:{image}", "name": base, "version": digest}
    location = f"&repository_url={quote(base, safe='')}" + (f"&tag={quote(tag, safe='')}" if tag else "")
    purl = f"pkg:oci/{base.split('/')[-1].lower()}@{quote(digest, safe='')}?{location.removeprefix('&')}"
    return found | {"purl": purl, "hashes": _hashes(digest.removeprefix("sha256:"))}


def _hashes(digest: str) -> Sequence[Mapping[str, str]]:
    return [{"alg": "SHA-256", "content": digest}]

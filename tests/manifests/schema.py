"""Strict structure: every document against its schema, where a field that nobody knows is an error."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from tests.manifests.kube import Tree

FOLDER = Path(__file__).parent / "crds"
_DROPPED = {"format", "default", "description", "nullable"}


def strict(schema: Any) -> Any:
    """An OpenAPI schema of a CRD as a JSON schema in which unknown fields are errors.

    Fields with a default are never required: the API server fills them in before it checks.
    """
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        kept = {"pattern": schema["pattern"]} if "pattern" in schema else {}
        return {"anyOf": [{"type": "integer"}, {"type": "string", **kept}]}
    out: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "properties":
            out[key] = {name: strict(each) for name, each in value.items()}
        elif key not in _DROPPED and not key.startswith("x-kubernetes-"):
            out[key] = strict(value)
    properties = schema.get("properties")
    if properties is not None:
        if "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            out["additionalProperties"] = False
        required = [name for name in schema.get("required", []) if "default" not in properties.get(name, {})]
        out.pop("required", None)
        if required:
            out["required"] = required
    if schema.get("nullable") and isinstance(out.get("type"), str):
        out["type"] = [out["type"], "null"]
    return out


@cache
def validators() -> dict[str, Draft202012Validator]:
    """Validators by `apiVersion/kind`."""
    found: dict[str, Draft202012Validator] = {}
    crd = json.loads((FOLDER / "ray.io_rayservices.v1.json").read_text())
    schema = strict(crd["openAPIV3Schema"])
    schema["properties"]["metadata"] = {
        "type": "object",
        "additionalProperties": False,
        "required": ["name", "namespace"],
        "properties": {
            "name": {"type": "string"},
            "namespace": {"type": "string"},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    }
    schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
    found["ray.io/v1/RayService"] = Draft202012Validator(schema)
    definitions = json.loads((FOLDER / "kubernetes.json").read_text())["$defs"]
    for name, definition in definitions.items():
        for each in definition.get("x-kubernetes-group-version-kind", []):
            version = f"{each['group']}/{each['version']}".lstrip("/")
            reference = {
                "$ref": f"#/$defs/{name}",
                "$defs": definitions,
                "required": ["apiVersion", "kind", "metadata"],
            }
            found[f"{version}/{each['kind']}"] = Draft202012Validator(reference)
    others = json.loads((FOLDER / "others.json").read_text())
    for each in others["kinds"].values():
        properties = each["properties"]
        key = f"{properties['apiVersion']['const']}/{properties['kind']['const']}"
        found[key] = Draft202012Validator({**each, "$defs": others["$defs"]})
    return found


def problems(document: Tree) -> Iterator[str]:
    """What is wrong with a document's structure."""
    kind = f"{document.get('apiVersion')}/{document.get('kind')}"
    validator = validators().get(kind)
    if validator is None:
        yield f"{kind}: there is no schema for it"
        return
    for error in validator.iter_errors(document):
        yield f"{kind} {error.json_path}: {error.message[:300]}"

"""Tools that write or remove Kubernetes objects: what the object is decides, not what the tool is called."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

import yaml

from deployments.gate.canonical import Canonical, canonical_object
from deployments.gate.grammar import class_of
from deployments.gate.judge import Judge
from deployments.gate.policy import DEFAULT_TARGET
from deployments.gate.shell.atoms import Word
from deployments.gate.tool_specs import KubernetesTool
from deployments.gate.tools import preview
from deployments.gate.tools.arguments import (
    Misfit,
    Reading,
    Values,
    check_known,
    fault,
    option_findings,
    optional_text,
)
from deployments.ports import JsonValue, Risk

MAX_OBJECTS = 50
MAX_CHARACTERS = 64_000
MAX_DEPTH = 32
# Kinds that hand out rights, or that the cluster asks about everything: a change of one is a change of the cluster.
RIGHTS = frozenset({
    "role", "rolebinding", "clusterrole", "clusterrolebinding", "serviceaccount", "certificatesigningrequest",
    "mutatingwebhookconfiguration", "validatingwebhookconfiguration", "validatingadmissionpolicy",
    "validatingadmissionpolicybinding", "mutatingadmissionpolicy", "mutatingadmissionpolicybinding",
    "customresourcedefinition", "apiservice", "namespace", "node", "persistentvolume", "storageclass", "csidriver",
    "priorityclass", "podsecuritypolicy", "securitycontextconstraints", "clusterpolicy", "policy", "constrainttemplate",
    "networkpolicy", "secretstore", "clustersecretstore", "externalsecret", "sealedsecret", "runtimeclass",
    "flowschema", "prioritylevelconfiguration", "ingressclass", "gatewayclass", "resourcequota", "limitrange",
})  # fmt: skip
# Names of fields in small letters: not every reader of objects tells capitals from them.
_TRUE = frozenset({
    "privileged", "hostnetwork", "hostpid", "hostipc", "allowprivilegeescalation", "shareprocessnamespace",
})  # fmt: skip
_PRESENT = frozenset({
    "hostpath", "hostport", "procmount", "selinuxoptions", "sysctls", "windowsoptions", "flexvolume", "nodename",
    "ephemeralcontainers", "nfs", "iscsi", "rbd", "cephfs", "glusterfs", "csi",
})  # fmt: skip
_ACCOUNTS = frozenset({"serviceaccountname", "serviceaccount"})
_ROOT = frozenset({"runasuser", "runasgroup", "fsgroup"})
_WAYS_IN = frozenset({"loadbalancer", "nodeport", "externalname", "unconfined"})
_OPEN = frozenset({"externalips", "externalname", "loadbalancerip"})
_APPARMOR = "container.apparmor.security.beta.kubernetes.io/"

# libyaml's reader, of which the cluster's own is a port, where PyYAML was built with it.
_Loader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TEXT = "tag:yaml.org,2002:str"
_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "str", "int", "float", "bool", "null")}

_Object = Mapping[str, JsonValue]


def read_kubernetes(judge: Judge, spec: KubernetesTool, values: Values) -> Reading:
    """Every object that the call writes or removes."""
    known = (*spec.object, *spec.kind, *spec.name, *spec.namespace, *spec.context, *spec.options, *spec.raises)
    check_known(values, known)
    findings = option_findings(judge, spec, values)
    kind = optional_text(values, spec.kind, "kind")
    name = optional_text(values, spec.name, "name")
    namespace = optional_text(values, spec.namespace, "namespace")
    context = optional_text(values, spec.context, "context")
    texts = [values[each] for each in spec.object if each in values]
    if len(texts) > 1:
        raise Misfit("the call does not name exactly one object")
    objects = _objects(texts[0]) if texts else []
    if objects is None:
        findings.append(fault("kubernetes.unreadable", "the objects cannot be read in one way only", Risk.R3))
        objects = []
    if kind is None and not texts:
        raise Misfit("the call names neither a kind nor an object")
    words = [("context", Word(DEFAULT_TARGET if context is None else context))]
    if kind is not None:
        words += _words(kind, name, namespace)
    for each in objects:
        words += _words(_kind(each), _text(_meta(each), "name"), _text(_meta(each), "namespace") or namespace)
    findings.append(judge.fields(words, class_of(spec.class_), spec.reason, False))
    kinds = {_plain(found) for found in (kind, *(_kind(each) for each in objects)) if found is not None}
    if kinds & RIGHTS:
        findings.append(fault("kubernetes.rights", "changes who may do what, or what the cluster itself does", Risk.R3))
    risky = sorted({sign for each in objects for sign in _signs(dict(each))})
    if risky:
        findings.append(fault("kubernetes.privileged", f"the object asks for {', '.join(risky)}", Risk.R3))
    shown = texts[0] if texts else None
    text = shown if isinstance(shown, str) else None if shown is None else str(_canonical(shown))
    return Reading(tuple(findings), None if text is None else preview.of_text("objects", text))


def _objects(value: JsonValue) -> list[_Object] | None:
    """The objects of a text or value, lists unfolded; None when there is doubt about what they are."""
    if isinstance(value, Mapping):
        parts: list[Any] = [value]
    elif isinstance(value, str) and len(value) <= MAX_CHARACTERS:
        try:
            read = _documents(value)
        except (yaml.YAMLError, RecursionError, ValueError):
            return None
        if read is None:
            return None
        parts = read
    else:
        return None
    found: list[_Object] = []
    for part in parts:
        if part is None:
            continue
        decoded = canonical_object(cast("dict[str, JsonValue]", part)) if isinstance(part, dict) else None
        if not isinstance(decoded, Canonical):
            return None
        items = decoded.value.get("items")
        if _kind(decoded.value).endswith("List") and isinstance(items, list):
            found += [item for item in items if isinstance(item, dict)]
            if any(not isinstance(item, dict) for item in items):
                return None
        else:
            found.append(decoded.value)
    plain = all(_kind(each) and isinstance(each.get("metadata"), dict) for each in found)
    return found if found and plain and len(found) <= MAX_OBJECTS else None


def _documents(text: str) -> list[Any] | None:
    """The documents of a YAML text without what hides things: no key twice, no anchors, merge keys or tags."""
    reader, depth = cast(Any, yaml), 0
    for event in cast("Iterator[yaml.Event]", reader.parse(text, Loader=_Loader)):
        # By events, which take no stack, before anything is built.
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH or isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            return None
    waiting = list(cast("Iterator[yaml.Node]", reader.compose_all(text, Loader=_Loader)))
    while waiting:
        node = waiting.pop()
        if node.tag not in _TAGS:
            return None
        if isinstance(node, yaml.MappingNode):
            pairs = cast("list[tuple[yaml.Node, yaml.Node]]", node.value)
            keys = [key.value for key, _ in pairs if key.tag == _TEXT]
            if len(keys) != len(pairs) or len({str(key).lower() for key in keys}) != len(pairs):
                return None
            waiting += [value for _, value in pairs]
        elif isinstance(node, yaml.SequenceNode):
            waiting += cast("list[yaml.Node]", node.value)
    return list(reader.load_all(text, Loader=_Loader))


def _words(kind: str, name: str | None, namespace: str | None) -> list[tuple[str, Word]]:
    """The kind as a target, and the namespace as one: where there is none, it is the default one."""
    plain = _plain(kind)
    found = [("resource", Word(plain))]
    if plain in {"namespace", "namespaces", "ns"}:
        return [*found, ("namespace", Word(name))]
    return [*found, ("namespace", Word(DEFAULT_TARGET if namespace is None else namespace))]


def _signs(value: JsonValue) -> Iterator[str]:
    """What in an object reaches beyond its own container."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _sign(name.lower(), each)
            yield from _signs(each)
    elif isinstance(value, list):
        for each in value:
            yield from _signs(each)


def _sign(name: str, value: JsonValue) -> Iterator[str]:
    if value is None:
        return
    if (name in _TRUE and value is not False) or name in _PRESENT:
        yield name
    if (name in _ACCOUNTS and value != "default") or (name == "automountserviceaccounttoken" and value is not False):
        yield "a service account"
    if name == "capabilities" and not (isinstance(value, Mapping) and not {each.lower() for each in value} - {"drop"}):
        yield "capabilities"
    if (name in _ROOT and value == 0) or (name == "runasnonroot" and value is False):
        yield "the root user"
    text = value.lower() if isinstance(value, str) else ""
    if (name == "type" and text in _WAYS_IN) or name in _OPEN:
        yield "a way in from outside, or no confinement"
    if name.startswith(_APPARMOR) and text == "unconfined":
        yield "no confinement"


def _kind(value: _Object) -> str:
    found = value.get("kind")
    return found if isinstance(found, str) else ""


def _plain(kind: str) -> str:
    return kind.lower().partition(".")[0]


def _meta(value: _Object) -> _Object:
    found = value.get("metadata")
    return found if isinstance(found, Mapping) else {}


def _text(value: _Object, name: str) -> str | None:
    found = value.get(name)
    return found if isinstance(found, str) else None


def _canonical(value: JsonValue) -> str:
    decoded = canonical_object(value) if isinstance(value, Mapping) else None
    return decoded.text if isinstance(decoded, Canonical) else ""

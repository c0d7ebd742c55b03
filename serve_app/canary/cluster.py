"""The RayService as the API server has it: read, and written with what was read as a condition.

Authentication is left to `kubectl proxy`, or in a pod to its own account's token, which is read anew for each request
because kubelet replaces it. Every write is one JSON patch (RFC 6902) that first tests what it rests on, so that of two
writers one is refused and reads again.
"""

import base64
import gzip
import hashlib
import json
import ssl
import zlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import httpx2
from pydantic import BaseModel, Field, ValidationError

from serve_app.canary.values import CanaryError, Changed, Generation, Options, Seen, Unreachable

MEMORY: Final = "gatehouse/canary"
LAST_GOOD: Final = "gatehouse/canary-last-good"
PROXY: Final = "http://127.0.0.1:8001"
IN_CLUSTER: Final = "in-cluster"
_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TIMEOUT_S: Final = 15.0
_MOST_BYTES: Final = 200_000  # of all annotations the API server takes 256 KiB
_RUNNING: Final = "RUNNING"
_M = TypeVar("_M", bound=BaseModel)


# --- what of the objects is read ---------------------------------------------------------------------------------


class _Metadata(BaseModel):
    resourceVersion: str
    generation: int = 0
    annotations: dict[str, str] = Field(default_factory=dict[str, str])


class _Upgrade(BaseModel):
    stepSizePercent: int = -1
    intervalSeconds: int = -1
    maxSurgePercent: int = 100


class _Strategy(BaseModel):
    type: str = "NewCluster"
    clusterUpgradeOptions: _Upgrade = _Upgrade()


class _Spec(BaseModel):
    rayClusterConfig: dict[str, Any]
    serveConfigV2: str = ""
    upgradeStrategy: _Strategy = _Strategy()


class _Condition(BaseModel):
    type: str
    status: str


class _Application(BaseModel):
    status: str = ""


class _Service(BaseModel):
    rayClusterName: str = ""
    targetCapacity: int | None = None
    trafficRoutedPercent: int | None = None
    lastTrafficMigratedTime: datetime | None = None
    applicationStatuses: dict[str, _Application] = Field(default_factory=dict[str, _Application])


class _Status(BaseModel):
    conditions: list[_Condition] = Field(default_factory=list[_Condition])
    observedGeneration: int = -1
    activeServiceStatus: _Service = _Service()
    pendingServiceStatus: _Service = _Service()


class RayService(BaseModel):
    """What of a RayService is read here; everything else stays as it is."""

    metadata: _Metadata
    spec: _Spec
    status: _Status = _Status()


class _BackendRef(BaseModel):
    name: str = ""
    weight: int = 1


class _Rule(BaseModel):
    backendRefs: list[_BackendRef] = Field(default_factory=list[_BackendRef])


class _RouteSpec(BaseModel):
    rules: list[_Rule] = Field(default_factory=list[_Rule])


class _Conditions(BaseModel):
    conditions: list[_Condition] = Field(default_factory=list[_Condition])


class _RouteStatus(BaseModel):
    parents: list[_Conditions] = Field(default_factory=list[_Conditions])


class _Gateway(BaseModel):
    status: _Conditions = _Conditions()


class _Route(BaseModel):
    spec: _RouteSpec = _RouteSpec()
    status: _RouteStatus = _RouteStatus()


# --- the client --------------------------------------------------------------------------------------------------


class Cluster:
    """One RayService of one namespace. Every method raises `Unreachable`, or `CanaryError` for what is refused."""

    def __init__(
        self,
        api: str,
        namespace: str,
        name: str,
        environment: Mapping[str, str],
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        """`api`: the address of a `kubectl proxy`, or `in-cluster`."""
        self.name = name
        self._where = f"namespaces/{namespace}"
        self._token_file: Path | None = None
        verify: Any = True
        if api == IN_CLUSTER:
            host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT", "443")
            if not host:
                raise CanaryError("in-cluster: this is no pod, KUBERNETES_SERVICE_HOST is not set.")
            host = f"[{host}]" if ":" in host else host  # version 6
            api, self._token_file = f"https://{host}:{port}", _ACCOUNT / "token"
            verify = _trusting(_ACCOUNT / "ca.crt")
        self.api = api
        try:
            self._http = httpx2.Client(
                base_url=api, timeout=_TIMEOUT_S, verify=verify, trust_env=False, transport=transport
            )
        except httpx2.InvalidURL:
            raise CanaryError(f"{api} is no address: no API server can be asked.") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    @property
    def _path(self) -> str:
        return f"/apis/ray.io/v1/{self._where}/rayservices/{self.name}"

    def look(self) -> tuple[Seen, RayService]:
        """The RayService and its route at this moment."""
        reply = self._ask("GET", self._path)
        if reply is None:
            raise CanaryError(f"there is no RayService {self.name} in {self._where}, or KubeRay is not installed.")
        service = _parsed(RayService, reply)
        active, pending = _generation(service.status.activeServiceStatus), _generation(
            service.status.pendingServiceStatus, first=False
        )  # fmt: skip
        return Seen(
            at_ms=_date(reply),
            version=service.metadata.resourceVersion,
            strategy=service.spec.upgradeStrategy.type,
            options=Options(
                service.spec.upgradeStrategy.clusterUpgradeOptions.stepSizePercent,
                service.spec.upgradeStrategy.clusterUpgradeOptions.intervalSeconds,
                service.spec.upgradeStrategy.clusterUpgradeOptions.maxSurgePercent,
            ),
            cluster=digest(service.spec.rayClusterConfig),
            serve_config=service.spec.serveConfigV2,
            ready=_true(service.status.conditions, "Ready"),
            observed=service.status.observedGeneration == service.metadata.generation,
            active=active,
            pending=pending,
            route_problem=self._route_problem(active, pending),
            memory=service.metadata.annotations.get(MEMORY),
        ), service

    def _route_problem(self, active: Generation | None, pending: Generation | None) -> str | None:
        """Why requests are not divided as the status says; None when they are."""
        base = f"/apis/gateway.networking.k8s.io/v1/{self._where}"
        reply = self._ask("GET", f"{base}/gateways/{self.name}-gateway")
        if reply is None:
            return f"there is no Gateway {self.name}-gateway: the operator does not steer requests"
        if not _both(_parsed(_Gateway, reply).status.conditions, "Accepted", "Programmed"):
            return f"the Gateway {self.name}-gateway is not programmed"
        reply = self._ask("GET", f"{base}/httproutes/{self.name}-httproute")
        if reply is None:
            return f"there is no HTTPRoute {self.name}-httproute: the operator does not steer requests"
        route = _parsed(_Route, reply)
        parents = route.status.parents
        if not parents or not all(_both(each.conditions, "Accepted", "ResolvedRefs") for each in parents):
            return f"the HTTPRoute {self.name}-httproute is not accepted"
        weights = {ref.name: ref.weight for rule in route.spec.rules for ref in rule.backendRefs}
        for each in (active, pending):
            if each is None:
                continue
            found = sum(weight for name, weight in weights.items() if name.startswith(f"{each.name}-"))
            if found != each.traffic:
                return f"the HTTPRoute gives {each.name} {found} %, its status says {each.traffic} %"
        return None

    def write(
        self,
        seen: Seen,
        memory: str,
        options: Options | None = None,
        cluster: Mapping[str, object] | None = None,
        serve_config: str | None = None,
        last_good: str | None = None,
    ) -> None:
        """Write the memory, and with it whatever is given. `Changed` when somebody was faster."""
        patch: list[dict[str, object]] = []
        path = f"/metadata/annotations/{_escaped(MEMORY)}"
        if seen.memory is None:
            patch.append({"op": "test", "path": "/metadata/resourceVersion", "value": seen.version})
        else:
            patch.append({"op": "test", "path": path, "value": seen.memory})
        if last_good is not None:
            if len(last_good) > _MOST_BYTES:
                raise CanaryError("the specification is too large to be kept in an annotation.")
            patch.append({"op": "add", "path": f"/metadata/annotations/{_escaped(LAST_GOOD)}", "value": last_good})
        patch.append({"op": "add", "path": path, "value": memory})
        if options is not None:
            base = "/spec/upgradeStrategy/clusterUpgradeOptions"
            for key, value in (
                ("stepSizePercent", options.step),
                ("intervalSeconds", options.interval_s),
                ("maxSurgePercent", options.surge),
            ):
                patch.append({"op": "add", "path": f"{base}/{key}", "value": value})
        if cluster is not None:
            patch.append({"op": "replace", "path": "/spec/rayClusterConfig", "value": cluster})
        if serve_config is not None:
            patch.append({"op": "replace", "path": "/spec/serveConfigV2", "value": serve_config})
        self._patch(patch)

    def make_room(self, seen: Seen) -> None:
        """Let there be annotations at all; a patch cannot add one to nothing."""
        test: dict[str, object] = {"op": "test", "path": "/metadata/resourceVersion", "value": seen.version}
        self._patch([test, {"op": "add", "path": "/metadata/annotations", "value": {}}])

    def _patch(self, patch: Sequence[Mapping[str, object]]) -> None:
        content = json.dumps(patch).encode()
        if self._ask("PATCH", self._path, content) is None:
            raise Changed(f"the RayService {self.name} is gone.")

    def _ask(self, method: str, path: str, content: bytes | None = None) -> httpx2.Response | None:
        """The reply; None for what is not there."""
        headers = {"accept": "application/json"}
        if content is not None:
            headers["content-type"] = "application/json-patch+json"
        if self._token_file is not None:
            try:
                headers["authorization"] = f"Bearer {self._token_file.read_text(encoding='utf-8').strip()}"
            except OSError:
                raise Unreachable("in-cluster: the account's token cannot be read.") from None
        try:
            reply = self._http.request(method, path, content=content, headers=headers)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise Unreachable(f"the API server does not answer at {self.api} ({type(error).__name__}).") from None
        if reply.status_code == 404:
            return None
        if reply.status_code in {409, 422} and method == "PATCH":
            # A test of the patch that fails is answered with 422, as is a value that the API server refuses.
            if reply.status_code == 409 or "test failed" in _message(reply):
                raise Changed("the RayService was changed by somebody else meanwhile.")
            raise CanaryError(f"the API server refuses the change: {_message(reply)}")
        if reply.status_code in {401, 403}:
            raise CanaryError(f"the API server does not allow {method} {path}: {_message(reply)}")
        if reply.status_code >= 400:
            raise Unreachable(f"the API server answers {reply.status_code} to {method} {path}.")
        return reply


def _trusting(authority: Path) -> Any:
    try:
        return ssl.create_default_context(cafile=str(authority))
    except OSError:
        raise CanaryError("in-cluster: the cluster's certificate cannot be read.") from None


def _parsed(model: type[_M], reply: httpx2.Response) -> _M:
    try:
        return model.model_validate_json(reply.content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Unreachable(f"the API server's answer has an unexpected {where or 'form'}.") from None


class _Cause(BaseModel):
    message: str = ""


class _Details(BaseModel):
    causes: list[_Cause] = Field(default_factory=list[_Cause])


class _Refusal(BaseModel):
    message: str
    details: _Details = _Details()


def _message(reply: httpx2.Response) -> str:
    """Why the API server refuses. What came of a patch stands among the causes alone."""
    try:
        found = _Refusal.model_validate_json(reply.content)
    except ValidationError:
        return f"status {reply.status_code}"
    said = [found.message, *(each.message for each in found.details.causes)]
    return " ".join(" ".join(said).split())[:300]


def _date(reply: httpx2.Response) -> int:
    """The API server's clock: one clock for the operator's times and ours."""
    try:
        return int(parsedate_to_datetime(reply.headers["date"]).timestamp() * 1000)
    except (KeyError, ValueError):
        raise Unreachable("the API server's answer has no date.") from None


def _generation(found: _Service, first: bool = True) -> Generation | None:
    """None where there is none. What the operator has not written yet is what it takes for granted itself."""
    if not found.rayClusterName:
        return None
    states = [each.status for each in found.applicationStatuses.values()]
    moved = found.lastTrafficMigratedTime
    whole = 100 if first else 0
    return Generation(
        name=found.rayClusterName,
        traffic=whole if found.trafficRoutedPercent is None else found.trafficRoutedPercent,
        capacity=whole if found.targetCapacity is None else found.targetCapacity,
        well=bool(states) and all(each == _RUNNING for each in states),
        moved_ms=None if moved is None else int(moved.timestamp() * 1000),
    )


def _true(conditions: Sequence[_Condition], kind: str) -> bool:
    return any(each.type == kind and each.status == "True" for each in conditions)


def _both(conditions: Sequence[_Condition], one: str, other: str) -> bool:
    return _true(conditions, one) and _true(conditions, other)


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


# --- specifications ----------------------------------------------------------------------------------------------


def digest(value: Mapping[str, object]) -> str:
    """SHA-256 of a specification in hex, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def packed(cluster: Mapping[str, object], serve_config: str) -> str:
    """A specification for an annotation; `base64 -d | gunzip` shows it."""
    value = {"rayClusterConfig": cluster, "serveConfigV2": serve_config}
    return base64.b64encode(gzip.compress(json.dumps(value).encode(), mtime=0)).decode()


class _Packed(BaseModel):
    rayClusterConfig: dict[str, Any]
    serveConfigV2: str


def unpacked(text: str | None, expected: str) -> tuple[dict[str, Any], str]:
    """What was packed; `CanaryError` when it is not the one that is expected, for then it must be put back by hand."""
    try:
        found = _Packed.model_validate_json(gzip.decompress(base64.b64decode(text or "", validate=True)))
    except (ValueError, OSError, EOFError, zlib.error):  # pydantic's and base64's are ValueErrors
        found = None
    if found is None or digest(found.rayClusterConfig) != expected:
        raise CanaryError(
            f"the annotation {LAST_GOOD} is damaged: apply the overlay of the last release instead (docs/kuberay.md)."
        )
    return found.rayClusterConfig, found.serveConfigV2

"""The driver of a canary in its pod: it is started as the manifest says, and asks for what its Role grants, no more.

The API server is the one of the driver's own tests, behind TLS: it wants the pod's token, and allows what the committed
Role allows.
"""

import json
import shutil
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from typer.testing import CliRunner

from serve_app.canary import cluster as client
from serve_app.canary import orders
from serve_app.canary.driver import Driver
from serve_app.canary.values import CanaryError, Phase, Unreachable
from serve_app.cli import canary as cli
from tests.manifests.kube import KUBERAY, Tree, load
from tests.unit.canary.conftest import Bench, bench, served_bench
from tests.unit.canary.world import EPOCH, World, _answer

__all__ = ["bench", "served_bench"]
pytestmark = pytest.mark.enable_socket

TOKEN = "the-pods-own-token"
Asked = tuple[str, str, str, str]
"""API group, resource, name, verb."""

_VERBS = {"GET": "get", "PATCH": "patch", "PUT": "update", "POST": "create", "DELETE": "delete"}


def documents(component: str) -> list[Tree]:
    folder = KUBERAY / "components" / component
    (kustomization,) = load(folder / "kustomization.yaml")
    return [each for name in kustomization["resources"] for each in load(folder / name)]


def one(component: str, kind: str, name: str) -> Tree:
    (found,) = [each for each in documents(component) if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def granted() -> set[Asked]:
    """What the Role says, one by one."""
    return {
        (group, resource, name, verb)
        for rule in one("canary", "Role", "gatehouse-canary")["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule["resourceNames"]
        for verb in rule["verbs"]
    }


def asked(method: str, path: str) -> Asked:
    """What a request asks for, as the API server reads its path."""
    _, _, group, _, namespaces, namespace, resource, name = path.split("/")
    assert (namespaces, namespace) == ("namespaces", "gatehouse")
    return group, resource, name, _VERBS[method]


# --- an API server that wants a token and keeps a Role ------------------------------------------------------------


@dataclass
class ApiServer:
    """What it was asked for; `token` is the one that it takes."""

    port: int
    token: str = TOKEN
    seen: list[Asked] = field(default_factory=list)


def certificate(folder: Path) -> tuple[Path, Path]:
    """(certificate, key) of 127.0.0.1, signed by itself, which is the authority as well."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )  # fmt: skip
    paths = folder / "ca.crt", folder / "tls.key"
    paths[0].write_bytes(made.public_bytes(Encoding.PEM))
    paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return paths


@contextmanager
def api_server(world: World, account: Path, rules: set[Asked]) -> Iterator[ApiServer]:
    """Over TLS, with the account's certificate; only what `rules` hold is allowed."""
    certificate_file, key_file = certificate(account)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _say(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            wanted = asked(self.command, self.path)
            if self.headers.get("authorization") != f"Bearer {found.token}":
                status, value = 401, {"message": "Unauthorized"}
            elif wanted not in rules:
                status, value = 403, {"message": f"cannot {wanted[3]} resource {wanted[1]}"}
            else:
                found.seen.append(wanted)
                status, value = _answer(world, self.command, self.path, self.headers, body)
            content = json.dumps(value).encode()
            self.send_response_only(status)
            self.send_header("date", formatdate(EPOCH + world.now_s, usegmt=True))
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PATCH = do_POST = do_PUT = do_DELETE = _say

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate_file, key_file)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    found = ApiServer(server.server_port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Pod:
    """The driver's container: what is mounted, what its environment is, and who answers it."""

    bench: Bench
    account: Path
    order: Path
    api: ApiServer
    environment: dict[str, str | None]

    @property
    def words(self) -> list[str]:
        """Command and arguments of the manifest, without the program's name; the order lies where it is mounted."""
        (container,) = _template()["containers"]
        assert container["command"] == ["gatehouse", "canary", "run"]
        (mount,) = container["volumeMounts"]
        (argument,) = container["args"]
        assert argument == f"--orders={mount['mountPath']}/{orders.KEY}"
        return [*container["command"][2:], f"--orders={self.order}"]


def _template() -> Tree:
    return one("canary-driver", "Deployment", "gatehouse-canary-driver")["spec"]["template"]["spec"]


@pytest.fixture
def pod(served_bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pod]:
    account = tmp_path / "account"
    account.mkdir()
    (account / "token").write_text(TOKEN)
    monkeypatch.setattr(client, "_ACCOUNT", account)
    settings = one("canary-driver", "ConfigMap", "gatehouse-canary-driver")["data"]
    assert settings["GATEHOUSE_KUBE_API"] == client.IN_CLUSTER
    with api_server(served_bench.world, account, granted()) as api:
        environment = {
            **settings,
            "KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(api.port), "GATEHOUSE_KEY": "key",
            "GATEHOUSE_PROMETHEUS": served_bench.url, "GATEHOUSE_URL": served_bench.url,
        }  # fmt: skip
        yield Pod(served_bench, account, tmp_path / orders.KEY, api, environment)


class Told:
    """Stands for the wait between two looks: time passes, and it ends when something is so."""

    def __init__(self, pod: Pod, phase: Phase) -> None:
        self.pod, self.phase, self.looks = pod, phase, 0

    def wait(self, every_s: float) -> bool:
        self.pod.bench.world.pass_s(6 * every_s)
        self.looks += 1
        assert self.looks < 2_000, "it never was"
        memory = self.pod.bench.driver().memory()
        return memory is not None and memory.phase is self.phase and not memory.outbox


def run(pod: Pod, until: Phase, patch: pytest.MonkeyPatch) -> list[str]:
    """The container's process, from its start to something that is so; its lines."""
    patch.setattr(cli, "_told_to_end", lambda: nullcontext(Told(pod, until)))
    done = CliRunner().invoke(cli.app, pod.words, env=pod.environment)
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()


def order(pod: Pod, **change: Any) -> None:
    made = orders.ordered(pod.bench.order(**change), (EPOCH + 10**7) * 1000)
    pod.order.write_text(orders.config_map(made, "gatehouse")["data"][orders.KEY])


def test_the_container_releases_what_is_ordered_with_its_own_account(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release that goes through, one that goes back, and the hands of people: each verb is used, and no other one."""
    order(pod)
    lines = run(pod, Phase.FINISHED, monkeypatch)
    assert lines[0] == "c-1 begins, under CHG-1"
    assert pod.bench.events()[-1] == ("finished", 100)
    pod.bench.world.next_generation = {"failing": 0.3}
    order(pod, id="c-2", release="2")
    run(pod, Phase.ROLLED_BACK, monkeypatch)
    assert pod.bench.world.pending is None
    assert pod.bench.world.overloads == []
    assert set(pod.api.seen) == granted()


def test_hands_of_people_and_a_service_without_annotations_need_no_other_verb(pod: Pod) -> None:
    pod.bench.world.service["metadata"].pop("annotations")
    outside = pod.bench.driver()
    environment = {key: str(value) for key, value in pod.environment.items()}
    with client.Cluster(client.IN_CLUSTER, "gatehouse", "gatehouse", environment) as cluster:
        driver = Driver(cluster, outside._prometheus, outside._book)
        driver.start(pod.bench.order())
        driver.hold("lunch", "CHG-1")
        driver.resume("back", "CHG-1")
        driver.back("enough", "CHG-1")
        driver.look()
    assert set(pod.api.seen) == granted()


def test_without_a_verb_of_the_role_it_says_so_and_nothing_moves(
    served_bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Role is as small as it can be: whatever is taken away, no canary begins."""
    environment = {"KUBERNETES_SERVICE_HOST": "127.0.0.1"}
    monkeypatch.setattr(client, "_ACCOUNT", tmp_path)
    (tmp_path / "token").write_text(TOKEN)
    outside = served_bench.driver()
    for missing in sorted(granted()):
        with api_server(served_bench.world, tmp_path, granted() - {missing}) as api:
            environment["KUBERNETES_SERVICE_PORT"] = str(api.port)
            with client.Cluster(client.IN_CLUSTER, "gatehouse", "gatehouse", environment) as cluster:
                driver = Driver(cluster, outside._prometheus, outside._book)
                with pytest.raises(CanaryError, match=f"does not allow {'PATCH' if missing[3] == 'patch' else 'GET'}"):
                    driver.start(served_bench.order())
    assert served_bench.world.patches == 0


def test_it_shows_the_token_of_the_moment_and_trusts_its_own_authority_alone(pod: Pod, tmp_path: Path) -> None:
    environment = {key: str(value) for key, value in pod.environment.items()}
    with client.Cluster(client.IN_CLUSTER, "gatehouse", "gatehouse", environment) as cluster:
        cluster.look()
        pod.api.token = "the-next-one"
        with pytest.raises(CanaryError, match="does not allow"):
            cluster.look()
        (pod.account / "token").write_text("the-next-one\n")  # kubelet has replaced it
        cluster.look()
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(certificate(other)[0], pod.account / "ca.crt")
    cluster = client.Cluster(client.IN_CLUSTER, "gatehouse", "gatehouse", environment)
    with cluster, pytest.raises(Unreachable, match="does not answer"):
        cluster.look()


def test_the_order_comes_by_the_config_map_that_the_command_writes(pod: Pod) -> None:
    (volume,) = _template()["volumes"]
    assert volume["configMap"]["name"] == orders.CONFIG_MAP
    assert volume["configMap"]["optional"] is True  # nothing is ordered most of the time
    (mount,) = _template()["containers"][0]["volumeMounts"]
    assert "subPath" not in mount  # kubelet would never bring a later one


def test_one_is_replaced_and_not_doubled() -> None:
    spec = one("canary-driver", "Deployment", "gatehouse-canary-driver")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    binding = one("canary-driver", "RoleBinding", "gatehouse-canary-driver")
    (subject,) = binding["subjects"]
    assert (subject["name"], binding["roleRef"]["name"]) == (
        spec["template"]["spec"]["serviceAccountName"], "gatehouse-canary",
    )  # fmt: skip

"""What is generated is fresh, says what the code would say, and renders with every component."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from deployments.audit.notes import COSIGNATURE_V1, generate_key
from deployments.audit.vault_keys import open_ring
from serve_app.cli import bundle
from serve_app.cli import manifests as cli
from serve_app.cli.manifest_parts import GENERATED, GROUPS, alert_rules, generate, placements, serve_document
from serve_app.config import ConfigError, parse_config
from tests.manifests.kube import KUBERAY, OVERLAYS, ROOT, Tree, World, load, parse, walk
from tests.manifests.reach import matrix
from tests.manifests.rules import RULES
from tests.manifests.test_kuberay_network import expected

VOCABULARY = ROOT / ".gatehouse" / "vocabulary"
WITNESS = str(generate_key("witness.test/1", COSIGNATURE_V1, lambda count: b"\x07" * count).verifier)
SYNTHETIC = {"kind": "synthetic", "model": "m", "revision": "r"}
COMPONENTS = sorted(path.name for path in (KUBERAY / "components").iterdir())


def needs_kubectl() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip(
            "kubectl is not installed; the overlays were not rendered, the committed renderings are what was checked"
        )


# --- the committed files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_generated_files_are_what_the_serve_config_files_give(overlay: str) -> None:
    for path, text in generate(KUBERAY / "overlays" / overlay).items():
        assert path.read_text(encoding="utf-8") == text, "run `gatehouse manifests generate`"


def test_the_prometheus_rule_is_the_alert_files() -> None:
    committed = (KUBERAY / "base" / "monitoring" / "rules.yaml").read_text(encoding="utf-8")
    assert committed == alert_rules(ROOT / "configs" / "alerts"), "run `gatehouse manifests generate`"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_renderings_are_what_kubectl_makes_of_the_overlays(overlay: str) -> None:
    needs_kubectl()
    committed = (KUBERAY / "rendered" / f"{overlay}.yaml").read_text(encoding="utf-8")
    assert committed.startswith(cli.RENDERED_HEADER)
    # By content: versions of kustomize differ in how they write the same.
    assert parse(committed) == parse(cli.render(KUBERAY / "overlays" / overlay)), "run `gatehouse manifests render`"


def test_the_command_finds_what_is_stale(tmp_path: Path) -> None:
    overlay = compose(tmp_path, "m", ["weights-pvc", "site"])
    runner = CliRunner()
    assert runner.invoke(cli.app, ["check", str(overlay)]).exit_code == 0
    generated = overlay / GENERATED / "limits.yaml"
    generated.write_text(generated.read_text().replace("minAvailable: 1", "minAvailable: 0"))
    stale = runner.invoke(cli.app, ["check", str(overlay)])
    assert stale.exit_code == 1
    assert stale.stdout.splitlines()[0] == str(generated)


def test_no_bundle_is_made_of_what_is_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_kubectl()
    overlay, called = compose(tmp_path, "m", ["weights-pvc", "site"]), ["create", "--unsigned", "--to"]
    generated = overlay / GENERATED / "limits.yaml"
    fresh = generated.read_text()
    generated.write_text(fresh.replace("minAvailable: 1", "minAvailable: 0"))
    refused = CliRunner().invoke(bundle.app, [*called, str(tmp_path / "bundle"), "--overlay", str(overlay)])
    assert refused.exit_code == 2
    assert f"{generated} is not what" in refused.output
    assert "run `gatehouse manifests generate`" in refused.output
    generated.write_text(fresh)
    assert parse(cli.render_fresh(overlay)) == parse(cli.render(overlay))
    # The shipped overlays have a rendering beside them, which travels as well.
    other = cli.render(KUBERAY / "overlays" / "m").replace("minAvailable: 1", "minAvailable: 0")
    monkeypatch.setattr(cli, "render", lambda _: other)
    with pytest.raises(ConfigError, match=r"rendered/m\.yaml is not what .* run `gatehouse manifests render`"):
        cli.render_fresh(KUBERAY / "overlays" / "m")
    assert not (tmp_path / "bundle").exists()


def test_patches_name_the_groups_that_the_base_has() -> None:
    (service,) = load(KUBERAY / "base" / "rayservice.yaml")
    assert tuple(group["groupName"] for group in service["spec"]["rayClusterConfig"]["workerGroupSpecs"]) == GROUPS
    for group in (
        service["spec"]["rayClusterConfig"]["headGroupSpec"],
        *service["spec"]["rayClusterConfig"]["workerGroupSpecs"],
    ):
        first = group["template"]["spec"]["containers"][0]["env"][0]
        assert first["name"] == "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"


# --- against the code --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_placements_add_to_what_the_graph_says_and_change_nothing_else(overlay: str, tmp_path: Path) -> None:
    """Serve replaces actor options as a whole, so a number that the code changes must not be left behind here."""
    if not (VOCABULARY / "o200k_base.tiktoken").is_file():
        pytest.skip("the vocabulary is not there (gatehouse demo prepare); the graph was not built")
    from ray.serve._private.build_app import build_app

    from serve_app.app import build

    document, config = serve_document(KUBERAY / "overlays" / overlay)
    args = document["applications"][0]["args"]
    for model in args["models"]:  # the graph looks for checkpoints where it is built
        folder = tmp_path / model["engine"]["model"]
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        model["engine"]["source"] = str(folder)
    args["vocabulary_dir"] = str(VOCABULARY)
    args["routing_policy"] = args["routing_policy"].replace("/opt/gatehouse", str(ROOT))
    local = parse_config(args, "test")
    built = build_app(build(local), name="gatehouse", make_deployment_handle=lambda *_: None)  # type: ignore[arg-type]
    code = {each.name: each for each in built.deployments}
    placed = {each["name"]: each for each in placements(config)}
    assert placed.keys() == code.keys()
    for name, ours in placed.items():
        theirs = code[name].ray_actor_options
        own = {
            key: value for key, value in ours["ray_actor_options"].items() if key not in {"resources", "label_selector"}
        }
        said = {key: value for key, value in theirs.items() if key in {"num_cpus", "num_gpus", "runtime_env"} and value}
        if "runtime_env" in said:
            variables = said["runtime_env"]["env_vars"]
            said["runtime_env"] = {"env_vars": {**variables, "TIKTOKEN_ENCODINGS_BASE": str(config.vocabulary_dir)}}
        assert own == said, name
        if name.startswith("Engine:"):
            assert "graceful_shutdown_timeout_s" not in ours  # the code's own
            settings = next(model.engine for model in config.models if name.split(":")[1] == model.engine.model)
            assert code[name]._deployment_config.graceful_shutdown_timeout_s == settings.drain_s


def test_policies_lie_in_the_image() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "COPY configs /opt/gatehouse/configs" in dockerfile
    assert "/opt/gatehouse/vocabulary/o200k_base.tiktoken" in dockerfile


def test_the_image_keeps_what_it_writes_where_pods_mount_something() -> None:
    """The root is read-only: every directory that the image's variables name must be writable in an engine's pod."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    caches = re.findall(r"(?:VLLM_CACHE_ROOT|TRITON_CACHE_DIR|FLASHINFER_WORKSPACE_BASE)=(\S+)", text)
    mounts = World(load(KUBERAY / "rendered" / "l.yaml")).group("gpu-120b")["template"]["spec"]["containers"][0][
        "volumeMounts"
    ]
    writable = [each["mountPath"] for each in mounts if not each.get("readOnly")]
    assert len(caches) == 3
    assert [path for path in caches if not any(path.startswith(mount) for mount in writable)] == []


# --- what cannot work is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profile", "used", "own", "words"),
    [
        ("m", ["witness"], {}, "needs audit.witnesses"),
        ("m", ["canary"], {}, "needs postgres"),
        ("m", ["canary", "postgres"], {"args": {"audit": {"signing_key_file": "/k"}}}, "a log of its own"),
        ("m", ["postgres", "canary-driver"], {}, "needs canary before it"),
        ("s", [], {"args": {"device": "cpu"}}, "set device to cuda"),
        ("s", [], {"args": {"nonsense": 1}}, "unknown key 'nonsense'"),
        ("s", [], {"argss": {}}, "unknown key 'argss'"),
        ("s", [], {"models": ["20b"]}, "must hold a mapping"),
        ("s", [], {"models": {"20b": "fast"}}, "must hold a mapping"),
        ("s", [], {"args": {"models": [{"tier": "20b", "engine": SYNTHETIC}]}},
         "of kind vllm, not synthetic"),
        ("s", ["site", "spot"], {}, "site last"),
        ("s", ["airgap"], {}, "site and airgap last"),
    ],
    ids=["witness-without-key", "canary-on-sqlite", "canary-with-one-key", "driver-alone", "cpu", "setting", "key",
         "list", "no-settings", "synthetic", "site-not-last", "airgap-before-site"],
)  # fmt: skip
def test_a_combination_that_cannot_work_is_refused(
    tmp_path: Path, profile: str, used: Sequence[str], own: Tree, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        compose(tmp_path, profile, ["weights-pvc", *used, "site"], own)


def test_an_image_that_the_air_gap_does_not_rename_is_refused(tmp_path: Path) -> None:
    """A site's own registry in one of the two components alone: kustomize would say nothing."""
    for name in ("site", "airgap"):
        shutil.copytree(KUBERAY / "components" / name, tmp_path / name)
    used = ["weights-oci", *(str(tmp_path / name) for name in ("site", "airgap"))]
    for name, works in (("site", False), ("airgap", True)):
        file = tmp_path / name / "kustomization.yaml"
        file.write_text(file.read_text().replace("registry.example.org", "registry.site.test"))
        overlays = tmp_path / f"after-{name}"
        overlays.mkdir()
        with nullcontext() if works else pytest.raises(ConfigError, match=r"image registry\.site\.test/gatehouse, and"):
            compose(overlays, "s", used)


def test_settings_are_laid_over_in_order(tmp_path: Path) -> None:
    overlay = compose(
        tmp_path, "m", ["weights-streamer", "postgres", "site"], {"args": {"gate": {"approval_ttl_s": 600}}}
    )
    _, config = serve_document(overlay)
    engine: Any = config.models[0].engine
    assert engine.source == "s3://weights/gpt-oss-20b"
    assert engine.engine_args["load_format"] == "runai_streamer"
    assert engine.engine_args["async_scheduling"] is True  # what was there stays
    assert config.gate.approval_ttl_s == 600
    assert config.gate.bundle == "/opt/gatehouse/configs/policies/default.yaml"
    assert config.rollout.eval.suite == "/opt/gatehouse/configs/evals/coding-ops.jsonl"
    assert config.store_url is not None


def with_candidate(folder: Path, **change: object) -> dict[str, str]:
    """A Serve config file of profile m whose 20b has a second revision beside it."""
    document = yaml.safe_load((ROOT / "configs" / "serve.m.yaml").read_text())
    (model,) = [each for each in document["applications"][0]["args"]["models"] if each["tier"] == "20b"]
    model["candidate"] = {**model["engine"], "revision": "ab" * 32, "source": "/models/gpt-oss-20b-next", **change}
    path = folder / "serve.yaml"
    path.write_text(yaml.safe_dump(document))
    return {"config": str(path)}


def test_a_candidate_has_pods_of_its_own(tmp_path: Path) -> None:
    needs_kubectl()
    plain = World(load(KUBERAY / "rendered" / "m.yaml"))
    overlay = compose(tmp_path, "m", ["weights-pvc", "redis-ha", "postgres", "site"], with_candidate(tmp_path))
    world = World(parse(cli.render(overlay)))
    assert {name: found for name, rule in RULES.items() if (found := list(rule(world)))} == {}
    before, after = plain.group("gpu-20b"), world.group("gpu-20b")
    assert [after[key] for key in ("minReplicas", "maxReplicas")] == [
        2 * before[key] for key in ("minReplicas", "maxReplicas")
    ]
    assert f"Engine:gpt-oss-20b:{'ab' * 32}" in [each["name"] for each in world.application["deployments"]]


def test_a_candidate_that_needs_other_pods_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="same number of GPUs"):
        compose(tmp_path, "m", ["weights-pvc", "site"], with_candidate(tmp_path, tensor_parallel_size=2))


def test_two_large_replicas_for_good_are_two_pods(tmp_path: Path) -> None:
    """The overlay's own settings for 200 agents, docs/sizing.md."""
    needs_kubectl()
    used = ["weights-pvc", "redis-ha", "postgres", "mtls", "spot", "site"]
    overlay = compose(tmp_path, "l", used, {"models": {"120b": {"scaling": {"min_replicas": 2}}}})
    world = World(parse(cli.render(overlay)))
    assert (world.group("gpu-120b")["minReplicas"], world.group("gpu-120b")["maxReplicas"]) == (2, 2)
    assert {name: found for name, rule in RULES.items() if (found := list(rule(world)))} == {}


# --- every component ---------------------------------------------------------------------------------------------


def compose(folder: Path, profile: str, used: Sequence[str], own: Tree | None = None) -> Path:
    """An overlay of one's own, with its generated files. Raises `ConfigError`."""
    overlay = folder / profile
    overlay.mkdir()
    here = overlay.resolve()
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(KUBERAY / "base", here), f"{GENERATED}/limits.yaml"],
        "components": [os.path.relpath(KUBERAY / "components" / each, here) for each in used],
        "patches": [{"path": f"{GENERATED}/rayservice.yaml", "target": {"kind": "RayService", "name": "gatehouse"}}],
    }
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    config = str(ROOT / "configs" / f"serve.{profile}.yaml")
    (overlay / "gatehouse.yaml").write_text(yaml.safe_dump({"config": config, **(own or {})}))
    for path, text in generate(overlay).items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return overlay


WITNESSED: Tree = {
    "args": {"audit": {"witnesses": [{"url": "http://witness.gatehouse-witness.svc:8900", "key": WITNESS}]}}
}
COMBINATIONS: Mapping[str, tuple[str, Sequence[str], Tree]] = {
    "s-airgap-oci": ("s", ["weights-oci", "site", "airgap"], {}),
    "s-witness": ("s", ["weights-pvc", "witness", "site"], WITNESSED),
    "m-canary": ("m", ["weights-pvc", "redis-ha", "postgres", "canary", "site"], {}),
    "m-streamer-mtls": ("m", ["weights-streamer", "redis-ha", "mtls", "spot", "site"], {}),
    "l-most": ("l", ["weights-oci", "redis-ha", "postgres", "mtls", "spot", "witness", "site", "airgap"], WITNESSED),
    "l-canary": (
        "l",
        ["weights-streamer", "redis-ha", "postgres", "mtls", "spot", "canary", "canary-driver", "site"],
        {},
    ),
}


@pytest.fixture(scope="module", params=COMBINATIONS)
def combination(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, World]:
    needs_kubectl()
    profile, used, own = COMBINATIONS[request.param]
    overlay = compose(tmp_path_factory.mktemp(request.param), profile, used, own)
    return request.param, World(parse(cli.render(overlay)))


def test_every_component_is_in_a_combination() -> None:
    assert {each for _, used, _ in COMBINATIONS.values() for each in used} == set(COMPONENTS)


def test_a_combination_keeps_every_rule(combination: tuple[str, World]) -> None:
    _, world = combination
    assert {name: found for name, rule in RULES.items() if (found := list(rule(world)))} == {}


def test_a_combination_opens_what_its_components_need_and_nothing_else(combination: tuple[str, World]) -> None:
    name, world = combination
    used = COMBINATIONS[name][1]
    table = dict(expected(world))
    engines = [each["groupName"] for each in world.groups if each["groupName"].startswith("gpu-")]
    if "witness" in used:
        table["state", "witness"] = frozenset({8900})
    if "weights-streamer" in used:
        table |= {(each, "object store"): frozenset({443}) for each in engines}
    if "canary" in used:
        table |= {("gateway", each): frozenset({8000}) for each in ("state", *engines)}
    if "canary-driver" in used:
        table |= {
            ("canary", "dns"): frozenset({53}), ("canary", "api server"): frozenset({443, 6443}),
            ("canary", "prometheus"): frozenset({9090}), ("canary", "edge"): frozenset({8000}),
        }  # fmt: skip
    assert matrix(world) == table


@pytest.mark.parametrize(
    "combination", [name for name in COMBINATIONS if "airgap" in COMBINATIONS[name][1]], indirect=True
)
def test_an_air_gapped_cluster_names_nothing_outside(combination: tuple[str, World]) -> None:
    _, world = combination
    hosts: set[str] = set()
    for document in world.documents:
        for path, value in walk(document):
            if isinstance(value, str) and not path.startswith(".spec.groups"):  # sentences of alerts
                hosts |= set(
                    re.findall(r"\b[a-z0-9-]+(?:\.[a-z0-9-]+)*\.(?:com|org|io|net|dev|ai|co)(?=[/:]|$)", value)
                )
    groups = {document["apiVersion"].partition("/")[0] for document in world.documents}
    labels = {"nvidia.com", "kubernetes.io", "topology.kubernetes.io", "karpenter.sh", "policy", "ray.io"}
    assert hosts - groups - labels == set()
    listed = cli.images(yaml.safe_dump_all(world.documents))
    assert listed
    assert [each for each in listed if not each.startswith("registry.airgap.internal/")] == []


@pytest.mark.parametrize(
    "combination", [name for name in COMBINATIONS if "canary" in COMBINATIONS[name][1]], indirect=True
)
def test_a_canary_keeps_a_log_for_each_generation(combination: tuple[str, World]) -> None:
    _, world = combination
    state = world.group("state")["template"]["spec"]["containers"][0]
    paths = {each["mountPath"]: each.get("subPathExpr") for each in state["volumeMounts"]}
    assert paths["/var/lib/gatehouse/audit"] == "audit/$(GATEHOUSE_GENERATION)"
    assert world.config.audit.signing_key_file is None
    spec = world.service["spec"]
    spec["upgradeStrategy"]["clusterUpgradeOptions"]["stepSizePercent"] = 5
    assert list(RULES["upgrade"](world)) == ["at rest an upgrade must not move by itself: step 0, interval a day"]
    spec["upgradeStrategy"]["clusterUpgradeOptions"]["stepSizePercent"] = 0
    for each in state["volumeMounts"]:
        each.pop("subPathExpr", None)
    assert len(list(RULES["upgrade"](world))) == 2


@pytest.mark.parametrize(
    "combination", [name for name in COMBINATIONS if "canary" in COMBINATIONS[name][1]], indirect=True
)
@pytest.mark.parametrize("mode", [0o2775, 0o777], ids=["with-fs-group", "open-to-all"])
def test_a_generation_finds_folders_that_it_keeps_keys_in(
    combination: tuple[str, World], tmp_path: Path, mode: int
) -> None:
    """Kubelet makes what a `subPathExpr` names, and is not there, with the mode of the volume's root."""
    _, world = combination
    (pod,) = [each for each in world.pods if each.part == "state"]
    volume, name = tmp_path / "volume", "gatehouse-abcde"
    volume.mkdir()
    volume.chmod(mode)
    for container in pod.containers():
        for mount in container["volumeMounts"]:
            for folder in reversed(_folders(mount.get("subPathExpr", "").replace("$(GATEHOUSE_GENERATION)", name))):
                if not (volume / folder).exists():
                    (volume / folder).mkdir()
                    (volume / folder).chmod(mode)
        if container["name"] == "generation":
            words = [
                each.replace("/var/lib/gatehouse", str(volume)).replace("$(GATEHOUSE_GENERATION)", name)
                for each in (*container["command"], *container["args"])
            ]
            subprocess.run(words, check=True)
    key = tmp_path / "vault.key"
    key.write_text("ab" * 32 + "\n")
    key.chmod(0o440)
    open_ring(volume / "audit" / name / "bodies", volume / "audit-keys" / name, str(key))
    for folder in ("audit", "audit-keys"):
        assert (volume / folder / name).stat().st_mode & 0o077 == 0


def _folders(path: str) -> Sequence[Path]:
    """The folders that lead to a path, itself first."""
    return [each for each in (Path(path), *Path(path).parents) if each != Path()]


# --- beside the manifests ----------------------------------------------------------------------------------------


def wrong_in_the_operators_values(values: Tree) -> list[str]:
    """What is wrong with operator/values.yaml: keys that the chart does not have, gates, version, room, namespace."""
    known = {
        "image", "replicas", "leaderElectionEnabled", "resources", "watchNamespace", "singleNamespaceInstall",
        "crNamespacedRbacEnable", "podSecurityContext", "metrics", "featureGates",
    }  # fmt: skip
    gates = {
        "RayClusterStatusConditions": True, "RayJobDeletionPolicy": True, "RayMultiHostIndexing": True,
        "RayServiceIncrementalUpgrade": True, "RayCronJob": False, "RayClusterMTLS": True,
        "RayClusterNetworkPolicy": False, "RayClusterHistoryServer": False,
    }  # fmt: skip
    namespace = World(load(KUBERAY / "rendered" / "m.yaml")).service["metadata"]["namespace"]
    checks = {
        "keys": values.keys() <= known,
        "gates": {gate["name"]: gate["enabled"] for gate in values["featureGates"]} == gates,
        "digest": re.fullmatch(r"v1\.7\.0@sha256:[0-9a-f]{64}", values["image"]["tag"]) is not None,
        "room": float(values["resources"]["limits"]["cpu"]) >= 1,
        "two of them": values["replicas"] == 2 and values["leaderElectionEnabled"] is True,
        "namespace": values["watchNamespace"] == [namespace] and values["singleNamespaceInstall"] is True,
        "not root": values["podSecurityContext"]["runAsNonRoot"] is True,
        "metrics": values["metrics"]["serviceMonitor"]["enabled"] is True,
    }
    return [name for name, held in checks.items() if not held]


def test_the_operators_values_are_those_of_its_chart() -> None:
    assert wrong_in_the_operators_values(yaml.safe_load((KUBERAY / "operator" / "values.yaml").read_text())) == []


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("keys", {"featureGate": []}),
        ("gates", {"featureGates": [{"name": "RayServiceIncrementalUpgrade", "enabled": False}]}),
        ("digest", {"image": {"tag": "v1.7.0"}}),
        ("room", {"resources": {"limits": {"cpu": "0.1"}}}),
        ("two of them", {"replicas": 1}),
        ("namespace", {"watchNamespace": ["default"]}),
        ("not root", {"podSecurityContext": {"runAsNonRoot": False}}),
        ("metrics", {"metrics": {"serviceMonitor": {"enabled": False}}}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_in_the_operators_values_is_found(name: str, change: Tree) -> None:
    values = yaml.safe_load((KUBERAY / "operator" / "values.yaml").read_text())
    assert wrong_in_the_operators_values(values | change) == [name]


def test_the_rules_of_the_cluster_are_rules(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus); the cluster's alert rules were not parsed")
    for each in World(load(KUBERAY / "rendered" / "l.yaml")).kind("PrometheusRule"):
        path = tmp_path / f"{each['metadata']['name']}.yaml"
        path.write_text(yaml.safe_dump(each["spec"]))
        done = subprocess.run([promtool, "check", "rules", str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

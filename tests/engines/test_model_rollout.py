"""Weights are rolled out on the whole graph, with real engines: each session's answers show whose weights it gets.

Both checkpoints of the demonstration are revisions of one model here. The larger one takes the place of the smaller,
and the smaller one, which never learned to multiply and says so, then comes back as a candidate and has to go.
"""

import json
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.ingress.session import session_of
from deployments.ports import KeyId, Principal, TenantId
from deployments.rollout.artefacts import scan
from deployments.rollout.plan import revision_of
from deployments.rollouts import Kind
from deployments.slices import PLACES, place
from tests.serve.conftest import Stack, free_port, start, stop, write_config
from tests.serve.test_graph import wait_until

MODEL, FIRST = "demo-20b", "demo-1"
SAYS = {"small": "demo-20b", "large": "demo-120b"}
"""What each checkpoint calls itself when it is asked who it is."""

WHO, PRODUCT = "Who are you?", "What is 7 times 8?"
SMOKE = {"name": "knows-itself", "prompt": WHO, "expects": "demonstration model", "max_tokens": 128}
SURE = {"metric": "error", "slack": 0.01, "tolerance": 0.5, "min_count": 5}
RULES = {"min_s": 0, "window_s": 2, "deadline_s": 3_000, "design_effect": 1}
STRANGER = Principal(TenantId("default"), KeyId("key"), None, frozenset())
_LONGEST_S = 600  # what a machine that does much else may need


def digest(folder: Path) -> str:
    """The revision of a checkpoint."""
    return revision_of(scan(Kind.MODEL, MODEL, folder))


def engine(revision: str, source: Path) -> dict[str, Any]:
    """Settings of one engine: small, and the same for all revisions."""
    return {
        "model": MODEL, "revision": revision, "source": str(source), "dtype": "bfloat16", "enforce_eager": True,
        "max_model_len": 2048, "max_num_seqs": 8, "kv_cache_memory_bytes": 64 << 20, "num_cpus": 0.2, "drain_s": 20,
    }  # fmt: skip


@dataclass
class House:
    """A folder with both checkpoints, and the graph that runs in it, as it is configured at the moment."""

    folder: Path
    checkpoints: Mapping[str, Path]
    config: Path
    port: int
    key: str = ""
    running: Stack | None = None
    answered: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @property
    def stack(self) -> Stack:
        assert self.running is not None
        return self.running

    def serve(self, now: dict[str, Any], candidate: dict[str, Any]) -> None:
        """Start anew, with another configuration over the same state."""
        self.end()
        document = yaml.safe_load(self.config.read_text())
        args = document["applications"][0]["args"]
        args["models"] = [{"tier": "20b", "engine": now, "candidate": candidate}]
        args["min_memory_gib"] = 0
        args["rollout"] = {"tick_s": 0.5, "smoke_prompts": [SMOKE], "smoke_timeout_s": float(_LONGEST_S)}
        args["ingress"] = {"rollout_look_s": 0.5, "cascade": {"verify_all": True}}
        self.config.write_text(yaml.safe_dump(document))
        output = self.folder / f"output-{candidate['revision'][:8]}.txt"
        self.running = start(self.config, self.port, self.folder / "state", output)
        self.key = self.running.key = self.running.key or self.key  # shown once

    def end(self) -> None:
        if self.running is not None:
            stop(self.running.process)
            self.running = None

    # --- what an operator does ---

    def register(self, folder: Path) -> str:
        return self.stack.cli(
            "rollout", "register", "--kind", "model", "--target", MODEL, "--path", str(folder)
        ).stdout.strip()

    def begin(self, rollout_id: str, revision: str, previous: str, bounds: Sequence[Mapping[str, Any]]) -> None:
        rules = self.folder / f"{rollout_id}.json"
        rules.write_text(json.dumps({**RULES, "bounds": bounds}))
        self.stack.cli(
            "rollout", "start", rollout_id, "--kind", "model", "--target", MODEL, "--revision", revision,
            "--previous", previous, "--change-id", f"CHG-{rollout_id}", "--rules", str(rules),
        )  # fmt: skip

    def share(self, rollout_id: str) -> tuple[str, int]:
        """State and share."""
        with self.stack.operator() as http:
            found = http.get(f"/v1/admin/rollouts/{rollout_id}").raise_for_status().json()
        return found["state"], found["share_percent"]

    def history(self, rollout_id: str) -> list[dict[str, Any]]:
        return [
            json.loads(line) for line in self.stack.cli("rollout", "history", rollout_id, "--json").stdout.splitlines()
        ]

    # --- what sessions see ---

    def ask(self, names: Sequence[str], prompt: str) -> list[tuple[str, str]]:
        """Revision and text of an answer to each session; every one must be answered."""
        body = {"model": MODEL, "temperature": 0, "messages": [{"role": "user", "content": prompt}]}
        with self.stack.http() as http, ThreadPoolExecutor(8) as pool:

            def one(session: str) -> tuple[str, str]:
                reply = http.post("/v1/chat/completions", json=body, headers={"x-session-id": session})
                assert reply.status_code == 200, reply.text
                revision = reply.headers["x-gatehouse-revision"]
                self.answered[session].append(revision)
                return revision, reply.json()["choices"][0]["message"]["content"] or ""

            return list(pool.map(one, names))

    def whose(self, names: Sequence[str]) -> set[tuple[str, str]]:
        """(revision, checkpoint that the answer shows) of some sessions."""
        found = set[tuple[str, str]]()
        for revision, text in self.ask(names, WHO):
            [shown] = [name for name, says in SAYS.items() if says in text]
            found.add((revision, shown))
        return found


def sessions(rollout_id: str, low: int, high: int, count: int = 8) -> list[str]:
    """So many sessions whose places are from `low` to below `high` percent."""
    found = list[str]()
    number = 0
    while len(found) < count:
        name = f"{rollout_id}-{number}"
        session = session_of(STRANGER, {"x-session-id": name}, {}, {})
        if low <= place(rollout_id, STRANGER.tenant, session) * 100 / PLACES < high:
            found.append(name)
        number += 1
    return found


@pytest.fixture(scope="module")
def house(
    demo_models: Mapping[str, Path], prepared: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("weights")
    checkpoints = {name: folder / name for name in SAYS}
    for name, says in SAYS.items():
        shutil.copytree(demo_models[says], checkpoints[name])
    port = free_port()
    found = House(folder, checkpoints, write_config(folder, prepared, port), port)
    yield found
    found.end()


def test_weights_get_all_sessions_step_by_step_and_each_keeps_its_revision(house: House) -> None:
    small, large = house.checkpoints["small"], house.checkpoints["large"]
    new = digest(large)
    assert new != digest(small)
    house.serve(engine(FIRST, small), engine(new, large))
    assert house.register(large) == new

    # A byte that changes between the registration and the start.
    weights = large / "model.safetensors"
    with weights.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    house.begin("ro-changed", new, FIRST, [SURE])
    wait_until(lambda: house.share("ro-changed")[0] == "rolled_back", _LONGEST_S)
    steps = house.history("ro-changed")
    assert [(each["state"], each["share_percent"]) for each in steps] == [("registered", 0), ("rolled_back", 0)]
    assert steps[-1]["reason"] == "The file 'model.safetensors' of the artefact has changed."
    with weights.open("r+b") as file:
        file.seek(-1, 2)
        file.write(last)
    assert house.register(large) == new

    # As it was registered it is warmed, tried, and gets its sessions.
    house.begin("ro-good", new, FIRST, [SURE])
    few, more, most = sessions("ro-good", 0, 5), sessions("ro-good", 5, 25), sessions("ro-good", 25, 100)
    old, fresh = (FIRST, "small"), (new, "large")

    def split() -> tuple[set[tuple[str, str]], ...]:
        return tuple(map(house.whose, (few, more, most)))

    def reached(share: int) -> bool:
        """Nothing is asked before the share is looked at: without traffic there is no evidence, and it stays."""
        if house.share("ro-good")[1] == share:
            return True
        house.ask([*few, *more, *most], WHO)
        return False

    wait_until(lambda: house.share("ro-good")[1] == 5, _LONGEST_S)
    wait_until(lambda: split() == ({fresh}, {old}, {old}), _LONGEST_S)
    wait_until(lambda: reached(25), _LONGEST_S)
    wait_until(lambda: split() == ({fresh}, {fresh}, {old}), _LONGEST_S)
    wait_until(lambda: reached(100), _LONGEST_S)
    wait_until(lambda: split() == ({fresh}, {fresh}, {fresh}), _LONGEST_S)
    wait_until(lambda: house.share("ro-good")[0] == "finished", _LONGEST_S)
    assert split() == ({fresh}, {fresh}, {fresh})

    for session, revisions in house.answered.items():
        assert revisions == sorted(revisions, key=[FIRST, new].index), session  # nobody was moved back
    steps = house.history("ro-good")
    assert [(each["state"], each["share_percent"]) for each in steps] == [
        ("registered", 0), ("warming", 0), ("smoke", 0), ("slice", 5), ("slice", 25), ("watch", 100),
        ("finished", 100),
    ]  # fmt: skip
    assert all(each["audit_index"] is not None for each in steps)


def test_weights_that_answer_worse_go_back_by_themselves(house: House, tmp_path: Path) -> None:
    """The configuration names what has finished as the engine, over the same state; the next candidate gives up."""
    small, large = house.checkpoints["small"], house.checkpoints["large"]
    now, worse = digest(large), digest(small)
    house.serve(engine(now, large), engine(worse, small))
    assert house.whose(["anybody"]) == {(now, "large")}
    assert house.register(small) == worse
    verified = {"metric": "verifier", "slack": 0.05, "tolerance": 0.5, "min_count": 5}
    house.begin("ro-worse", worse, now, [verified])
    few, most = sessions("ro-worse", 0, 5), sessions("ro-worse", 25, 100)
    wait_until(lambda: house.share("ro-worse")[1] == 5, _LONGEST_S)  # it speaks, which is all that the smoke test asks
    texts = dict[str, set[str]]()

    def gone_back() -> bool:
        for revision, text in house.ask([*few, *most], PRODUCT):
            texts.setdefault(revision, set()).add(text)
        return house.share("ro-worse") == ("rolled_back", 0)

    wait_until(gone_back, _LONGEST_S)
    assert "56" in " ".join(texts[now])
    assert all("not sure" in text for text in texts[worse])
    last = house.history("ro-worse")[-1]
    assert (last["move"], last["by"], last["share_percent"]) == ("roll_back", "system", 0)
    assert last["reason"].startswith("worse: verifier ")
    bad, trials = last["evidence"]["metrics"]["verifier"]["candidate"]
    assert bad == trials >= 5
    assert last["evidence"]["metrics"]["verifier"]["baseline"][0] == 0
    wait_until(lambda: house.whose([*few, *most]) == {(now, "large")}, _LONGEST_S)

    log, package = str(house.stack.state / "audit"), str(tmp_path / "evidence")
    made = house.stack.cli("audit", "evidence", log, "--change-id", "CHG-ro-worse", "--out", package, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    checked = house.stack.cli("audit", "evidence", log, "--check", package, check=False)
    assert "none of the change's records is missing" in checked.stdout, checked.stdout + checked.stderr

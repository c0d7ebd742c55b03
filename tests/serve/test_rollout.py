"""Rollouts on the real graph, on token clocks: a bad revision goes back by itself, a good one gets everything."""

import json
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
import yaml

from deployments.ingress.session import session_of
from deployments.ports import KeyId, Principal, TenantId
from deployments.rollout.artefacts import scan
from deployments.rollout.judge import Tally, evidence
from deployments.rollout.plan import revision_of
from deployments.rollouts import ROUTER_TARGET, Artefact, Kind
from deployments.slices import PLACES, place
from tests.serve.conftest import Stack, free_port, start, stop, write_config
from tests.serve.test_graph import wait_until
from tests.unit.router.learned import two_heads_bytes

SMALL, LARGE = "demo-20b", "demo-120b"
BAD = {"token_ms": 60_000.0, "request_deadline_s": 3.0}
"""Its first token comes at once, which is all that the smoke prompt asks for; whoever wants eight gets an error."""
GOOD = {"token_ms": 0.5}
SLACK = 0.01
RULES = {
    "min_s": 0, "window_s": 2, "deadline_s": 600, "design_effect": 1,
    "bounds": [{"metric": "error", "slack": SLACK, "tolerance": 0.5, "min_count": 5}],
}  # fmt: skip
SMOKE = {"name": "speaks", "prompt": "Hello", "expects": "This", "max_tokens": 1}
CASES = [
    {"name": f"case-{number}", "family": ("code", "json")[number % 2], "prompt": f"Say something, {number}.",
     "max_tokens": 16, "checks": {"expects": "This", "may_be_cut": True}, "example": "This is it."}
    for number in range(12)
]  # fmt: skip
FEW = 4
"""Too few cases to tell anything: 1/16 is not improbable enough. Of all twelve 1/4096 is."""
STRANGER = Principal(TenantId("default"), KeyId("key"), None, frozenset())


OLD_PROMPT, NEW_PROMPT = "Answer briefly.", "Answer at length, with examples, and say where each of them is from."


def digest(model: str, settings: dict[str, float]) -> str:
    return revision_of(Artefact(Kind.ENGINE, model, settings=json.dumps(settings)))


def synthetic(name: str) -> dict[str, Any]:
    return {
        "kind": "synthetic", "model": name, "revision": "demo-1", "first_token_ms": 1.0, "token_ms": 1.0,
        "default_tokens": 8, "max_model_len": 16_384, "num_cpus": 0.1, "drain_s": 20,
    }  # fmt: skip


def model(tier: str, name: str, settings: dict[str, float]) -> dict[str, Any]:
    engine = synthetic(name)
    return {"tier": tier, "engine": engine, "candidate": {**engine, **settings, "revision": digest(name, settings)}}


def file(folder: Path, name: str, data: bytes) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def given(kind: Kind, target: str, path: Path, named: str) -> dict[str, str]:
    """A file as the configuration names it, with its revision."""
    return {named: str(path), "revision": revision_of(scan(kind, target, path))}


@pytest.fixture(scope="module")
def rolling(prepared: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("rolling")
    port = free_port()
    config = write_config(folder, prepared, port)
    document = yaml.safe_load(config.read_text())
    args = document["applications"][0]["args"]
    args["models"] = [model("20b", SMALL, BAD), model("120b", LARGE, GOOD)]
    args["models"][1]["prompt"] = {"path": str(file(folder, "old.txt", OLD_PROMPT.encode())), "revision": "p1"}
    args["models"][1]["candidate_prompt"] = given(
        Kind.PROMPT, LARGE, file(folder, "new.txt", NEW_PROMPT.encode()), "path"
    )
    snapshot = given(Kind.ROUTER, ROUTER_TARGET, file(folder, "new.snapshot", two_heads_bytes()), "snapshot")
    args["difficulty"] = {"learned": {"mode": "apply", "candidate": snapshot}}
    cases = file(folder, "cases.jsonl", "".join(f"{json.dumps(case)}\n" for case in CASES).encode())
    args["rollout"] = {
        "tick_s": 0.5, "smoke_prompts": [SMOKE], "eval": {"suite": str(cases), "cases": FEW, "parallel": len(CASES)},
    }  # fmt: skip
    args["ingress"] = {"rollout_look_s": 0.5}
    config.write_text(yaml.safe_dump(document))
    (folder / "rules.json").write_text(json.dumps(RULES))
    running = start(config, port, folder / "state", folder / "output.txt")
    yield running
    stop(running.process)


def begin(stack: Stack, rollout_id: str, name: str, settings: dict[str, float], change: str, *more: str) -> None:
    """Register a revision and begin its rollout, as an operator would."""
    of = ("--kind", "engine", "--target", name)
    revision = stack.cli(
        "rollout", "register", *of, "--settings", json.dumps(settings), "--change-id", change
    ).stdout.strip()
    assert revision == digest(name, settings)
    stack.cli(
        "rollout", "start", rollout_id, *of, "--revision", revision, "--previous", "demo-1", "--change-id", change,
        "--rules", str(stack.config.parent / "rules.json"), *more,
    )  # fmt: skip


def status(stack: Stack, rollout_id: str) -> dict[str, Any]:
    with stack.operator() as http:
        return http.get(f"/v1/admin/rollouts/{rollout_id}").raise_for_status().json()


def sessions(rollout_id: str, low: int, high: int, count: int) -> list[str]:
    """So many sessions whose places are from `low` to below `high` percent."""
    found = list[str]()
    number = 0
    while len(found) < count:
        name = f"session-{number}"
        session = session_of(STRANGER, {"x-session-id": name}, {}, {})
        if low <= place(rollout_id, STRANGER.tenant, session) * 100 / PLACES < high:
            found.append(name)
        number += 1
    return found


def ask(stack: Stack, name: str, names: Sequence[str]) -> list[httpx2.Response]:
    body = {"model": name, "messages": [{"role": "user", "content": "Who are you?"}]}
    with stack.http() as http, ThreadPoolExecutor(8) as pool:

        def one(session: str) -> httpx2.Response:
            return http.post("/v1/chat/completions", json=body, headers={"x-session-id": session})

        return list(pool.map(one, names))


def share_is(stack: Stack, rollout_id: str, share: int) -> bool:
    with stack.operator() as http:
        reply = http.get(f"/v1/admin/rollouts/{rollout_id}")
    assert reply.status_code in (200, 503)  # the controller may be starting again
    return reply.status_code == 200 and reply.json()["share_percent"] == share


def test_a_bad_revision_goes_back_by_itself_and_leaves_its_evidence(rolling: Stack, tmp_path: Path) -> None:
    begin(rolling, "ro-bad", SMALL, BAD, "CHG-BAD")
    wait_until(lambda: share_is(rolling, "ro-bad", 5), 600)
    few, most = sessions("ro-bad", 0, 5, 16), sessions("ro-bad", 25, 100, 16)
    seen = list[httpx2.Response]()

    def gone_back() -> bool:
        seen.extend(ask(rolling, SMALL, [*few, *most]))
        return status(rolling, "ro-bad")["state"] == "rolled_back"

    wait_until(gone_back, 600)
    assert {each.headers.get("x-gatehouse-revision") for each in seen if each.status_code == 200} == {"demo-1"}
    failed = [each for each in seen if each.status_code != 200]
    assert failed
    assert all(each.json()["error"]["code"] for each in failed)

    last = json.loads(rolling.cli("rollout", "history", "ro-bad", "--json").stdout.splitlines()[-1])
    assert (last["move"], last["by"], last["change_id"], last["share_percent"]) == ("roll_back", "system", "CHG-BAD", 0)
    assert last["reason"].startswith("worse: error ")
    assert last["audit_index"] is not None
    figures = last["evidence"]["metrics"]["error"]
    candidate, baseline = (Tally(trials, bad) for bad, trials in (figures["candidate"], figures["baseline"]))
    assert (candidate.share, baseline.share) == (1.0, 0.0)
    needed = -math.log(0.01 / 2 / 3)  # a half is the evaluation's, and three stages see traffic
    assert evidence(candidate, baseline, SLACK) >= needed, figures

    def back() -> bool:
        return all(each.status_code == 200 for each in ask(rolling, SMALL, few))

    wait_until(back, 60)  # every replica has heard of it
    with rolling.http() as http:
        shown = http.get("/metrics").text
    assert 'gatehouse_rollout_ended{outcome="rolled_back"} 1.0' in shown

    package = tmp_path / "CHG-BAD"
    log = str(rolling.state / "audit")
    made = rolling.cli("audit", "evidence", log, "--change-id", "CHG-BAD", "--out", str(package), check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    checked = rolling.cli("audit", "evidence", log, "--check", str(package), check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "none of the change's records is missing" in checked.stdout
    packaged = json.loads((package / "evidence.json").read_text())
    assert "worse: error" in json.dumps(packaged)
    verified = rolling.cli("audit", "verify", log, check=False)
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_a_revision_that_answers_its_cases_worse_gets_no_traffic(
    rolling: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same revision, with all of the cases: it is found out before anybody has to bear it."""
    begin(rolling, "ro-eval", SMALL, BAD, "CHG-EVAL", "--eval-cases", "all")
    wait_until(lambda: status(rolling, "ro-eval")["state"] == "rolled_back", 600)
    steps = [json.loads(line) for line in rolling.cli("rollout", "history", "ro-eval", "--json").stdout.splitlines()]
    assert [(each["state"], each["share_percent"]) for each in steps] == [
        ("registered", 0), ("warming", 0), ("smoke", 0), ("eval", 0), ("rolled_back", 0),
    ]  # fmt: skip
    assert steps[-1]["reason"].startswith("worse: eval 0/12 against 12/12; 12 only by the one before")
    assert (steps[-1]["by"], steps[-1]["evidence"]["eval"]["families"]["json"]) == ("system", [6, 0, 6])

    log, package = str(rolling.state / "audit"), tmp_path / "CHG-EVAL"
    rolling.cli("audit", "evidence", log, "--change-id", "CHG-EVAL", "--out", str(package), check=False)
    report = (package / "report.md").read_text()
    assert "0 of 12 cases, 12 before" in report
    assert "rollout.registered" in report

    saved, cases = str(tmp_path / "before.json"), str(rolling.config.parent / "cases.jsonl")
    asked = ("rollout", "eval", "--model", SMALL, "--suite", cases)
    monkeypatch.setenv("GATEHOUSE_KEY", rolling.key)  # it asks as a client does; the operator's key may not
    assert "12/12" in rolling.cli(*asked, "--save", saved).stdout
    assert "It is not shown to be worse." in rolling.cli(*asked, "--baseline", saved).stdout


def test_a_good_revision_gets_everything_while_its_controller_is_killed(rolling: Stack) -> None:
    begin(rolling, "ro-good", LARGE, GOOD, "CHG-GOOD")
    wait_until(lambda: share_is(rolling, "ro-good", 5), 600)
    few, more = sessions("ro-good", 0, 5, 16), sessions("ro-good", 5, 25, 16)
    most = sessions("ro-good", 25, 100, 16)
    new = digest(LARGE, GOOD)

    def split() -> tuple[set[str], set[str]]:
        return tuple({each.headers["x-gatehouse-revision"] for each in ask(rolling, LARGE, names)}
                     for names in (few, most))  # fmt: skip

    wait_until(lambda: split() == ({new}, {"demo-1"}), 600)
    controller = next(
        process
        for process in psutil.Process(rolling.process.pid).children(recursive=True)
        if "ServeReplica:gatehouse:RolloutController" in " ".join(process.cmdline())
    )
    controller.kill()
    # Traffic goes on, and as it was split.
    assert split() == ({new}, {"demo-1"})

    def promoted(share: int) -> bool:
        replies = ask(rolling, LARGE, [*few, *more, *most])
        assert {each.status_code for each in replies} == {200}
        return share_is(rolling, "ro-good", share)

    wait_until(lambda: promoted(25), 600)
    wait_until(lambda: promoted(100), 600)
    # It is asked on: what nobody has seen in the window does not finish.
    wait_until(lambda: promoted(100) and status(rolling, "ro-good")["state"] == "finished", 600)
    wait_until(lambda: split() == ({new}, {new}), 600)
    steps = [json.loads(line) for line in rolling.cli("rollout", "history", "ro-good", "--json").stdout.splitlines()]
    assert [(each["state"], each["share_percent"]) for each in steps] == [
        ("registered", 0), ("warming", 0), ("smoke", 0), ("eval", 0), ("slice", 5), ("slice", 25), ("watch", 100),
        ("finished", 100),
    ]  # fmt: skip
    assert all(each["audit_index"] is not None for each in steps)


def test_a_prompt_and_a_snapshot_get_their_own_sessions_and_leave_them_again(rolling: Stack) -> None:
    folder = rolling.config.parent
    for rollout_id, kind, target, name, previous in (
        ("ro-prompt", Kind.PROMPT, LARGE, "new.txt", "p1"),
        ("ro-router", Kind.ROUTER, ROUTER_TARGET, "new.snapshot", "configured"),
    ):
        of = ("--kind", kind.value, "--target", target)
        revision = rolling.cli("rollout", "register", *of, "--path", str(folder / name)).stdout.strip()
        assert revision == revision_of(scan(kind, target, folder / name))
        rolling.cli(
            "rollout", "start", rollout_id, *of, "--revision", revision, "--previous", previous,
            "--change-id", "CHG-OTHERS", "--rules", str(folder / "rules.json"),
        )  # fmt: skip
        wait_until(partial(share_is, rolling, rollout_id, 5), 600)
        few, most = sessions(rollout_id, 0, 5, 2), sessions(rollout_id, 25, 100, 2)
        header = f"x-gatehouse-{kind.value}-revision"

        def split(few: list[str] = few, most: list[str] = most, header: str = header) -> tuple[set[str], set[str]]:
            return tuple({each.headers[header] for each in ask(rolling, LARGE, names)} for names in (few, most))

        # In force when every replica has heard of it, with the next look at the controller.
        wait_until(lambda split=split, revision=revision, was=previous: split() == ({revision}, {was}), 600)
        if kind is Kind.PROMPT:
            tokens = [{each.json()["usage"]["prompt_tokens"] for each in ask(rolling, LARGE, names)}
                      for names in (few, most)]  # fmt: skip
            assert min(tokens[0]) > max(tokens[1])  # the engine has read more
        rolling.cli("rollout", "rollback", rollout_id, "--change-id", "CHG-OTHERS", "--reason", "it was a try")
        wait_until(lambda split=split, was=previous: split() == ({was}, {was}), 600)
        assert status(rolling, rollout_id)["state"] == "rolled_back"


def test_what_cannot_take_a_share_is_refused_at_the_start(rolling: Stack) -> None:
    of = ("--kind", "engine", "--target", SMALL)
    other = rolling.cli("rollout", "register", *of, "--settings", '{"token_ms": 7.0}').stdout.strip()
    prompt = rolling.cli("rollout", "register", "--kind", "prompt", "--target", SMALL, "--settings", '{"a": 1}')
    policy = rolling.cli("rollout", "register", "--kind", "policy", "--target", "mine", "--settings", '{"a": 1}')
    for kind, target, revision, previous, says in (
        ("engine", SMALL, other, "demo-1", "No candidate of 'demo-20b' has this revision"),
        ("engine", SMALL, digest(SMALL, BAD), "demo-0", "The revision in force is demo-1"),
        ("prompt", SMALL, prompt.stdout.strip(), "none", "set `candidate_prompt` of the model"),
        ("policy", "mine", policy.stdout.strip(), "configured", "kind 'policy'"),
    ):
        refused = rolling.cli(
            "rollout", "start", "ro-none", "--kind", kind, "--target", target, "--revision", revision,
            "--previous", previous, "--change-id", "CHG-1", check=False,
        )  # fmt: skip
        assert refused.returncode != 0
        assert says in refused.stderr
    with rolling.operator() as http:
        assert http.get("/v1/admin/rollouts/ro-none").status_code == 404

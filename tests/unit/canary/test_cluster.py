"""The client of the API server: who it says it is, and what it makes of answers that nobody expects."""

from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from serve_app.canary import cluster as module
from serve_app.canary.cluster import Cluster, digest, packed, unpacked
from serve_app.canary.values import CanaryError, Changed, Unreachable
from tests.unit.canary.conftest import Bench
from tests.unit.canary.world import answer

Answer = Callable[[httpx2.Request], httpx2.Response]


def client(answers: Answer, api: str = "http://world", environment: dict[str, str] | None = None) -> Cluster:
    return Cluster(api, "gatehouse", "gatehouse", environment or {}, httpx2.MockTransport(answers))


def test_a_pod_shows_its_account_s_token_as_it_is_at_that_moment(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def answers(request: httpx2.Request) -> httpx2.Response:
        seen.append(f"{request.url.scheme}://{request.url.host}:{request.url.port} {request.headers['authorization']}")
        return answer(bench.world, request)

    monkeypatch.setattr(module, "_ACCOUNT", tmp_path)
    monkeypatch.setattr(module, "_trusting", lambda path: path == tmp_path / "ca.crt")
    environment = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "6443"}
    with client(answers, "in-cluster", environment) as cluster:
        for token in ("one", "two"):
            (tmp_path / "token").write_text(f"{token}\n")
            cluster.look()
        (tmp_path / "token").unlink()
        with pytest.raises(Unreachable, match="token cannot be read"):
            cluster.look()
    assert seen == [f"https://10.0.0.1:6443 Bearer {token}" for token in ("one", "two") for _ in range(3)]


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (lambda _: httpx2.Response(404, json={}), "there is no RayService gatehouse"),
        (
            lambda _: httpx2.Response(403, json={"message": "rayservices is forbidden"}),
            "does not allow GET .* forbidden",
        ),
        (lambda _: httpx2.Response(401, text="no"), "does not allow GET .* status 401"),
        (lambda _: httpx2.Response(500, text="no"), "answers 500"),
        (lambda _: httpx2.Response(200, text="<html>"), "unexpected form"),
        (lambda _: httpx2.Response(200, json={"metadata": {}, "spec": {}}), "unexpected metadata.resourceVersion"),
    ],
    ids=["missing", "forbidden", "unknown", "broken", "not-json", "another-object"],
)
def test_an_answer_that_cannot_be_used_is_said(answers: Answer, words: str) -> None:
    with client(answers) as cluster, pytest.raises(CanaryError, match=words):
        cluster.look()


def test_an_answer_without_a_date_has_no_clock(bench: Bench) -> None:
    def answers(request: httpx2.Request) -> httpx2.Response:
        found = answer(bench.world, request)
        del found.headers["date"]
        return found

    with client(answers) as cluster, pytest.raises(Unreachable, match="no date"):
        cluster.look()


def test_of_two_writers_one_is_refused(bench: Bench) -> None:
    with client(lambda request: answer(bench.world, request)) as cluster:
        seen, _ = cluster.look()
        cluster.write(seen, "first")
        with pytest.raises(Changed):
            cluster.write(seen, "second")
        seen, _ = cluster.look()
        bench.world.pass_s(2)  # the operator writes its status meanwhile: that is no conflict
        cluster.write(seen, "second")
    assert bench.world.service["metadata"]["annotations"]["gatehouse/canary"] == "second"


def test_a_value_that_the_api_server_refuses_is_no_conflict(bench: Bench) -> None:
    invalid = {"message": 'RayService "gatehouse" is invalid: spec: Required value', "details": {"causes": []}}

    def answers(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(422, json=invalid) if request.method == "PATCH" else answer(bench.world, request)

    with client(answers) as cluster:
        seen, _ = cluster.look()
        with pytest.raises(CanaryError, match="refuses the change: .*is invalid") as caught:
            cluster.write(seen, "x")
    assert not isinstance(caught.value, Changed)


def test_a_rayservice_without_annotations_gets_some(bench: Bench) -> None:
    order = bench.order()
    del bench.world.service["metadata"]["annotations"]
    bench.driver().start(order)
    assert "gatehouse/canary" in bench.world.service["metadata"]["annotations"]


def test_a_specification_is_kept_as_it_is() -> None:
    spec = {"b": [1, {"ä": None}], "a": "x"}
    assert unpacked(packed(spec, "serve"), digest({"a": "x", "b": [1, {"ä": None}]})) == (spec, "serve")
    for text in (None, "", "!", "AAAA", packed({"a": "y"}, "serve")):
        with pytest.raises(CanaryError, match="damaged"):
            unpacked(text, digest(spec))

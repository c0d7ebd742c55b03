"""The client of a Prometheus, against what servers and proxies say."""

from collections.abc import Callable

import httpx2
import pytest

from serve_app.prometheus import PrometheusApi, PrometheusSilent

DATA = {"resultType": "vector", "result": []}
URL = "http://prometheus.example:9090"


class Server:
    """Answers with what the test gave it, and keeps what it was asked."""

    def __init__(self, answer: Callable[[httpx2.Request], httpx2.Response]) -> None:
        self.asked: list[httpx2.Request] = []
        self._answer = answer

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request)
        return self._answer(request)

    def api(self, url: str = URL, token: str | None = None) -> PrometheusApi:
        return PrometheusApi(url, token, httpx2.MockTransport(self))


def well(request: httpx2.Request) -> httpx2.Response:
    del request
    return httpx2.Response(200, json={"status": "success", "data": DATA})


def test_a_query_is_posted_and_its_data_comes_back() -> None:
    server = Server(well)
    with server.api(f"{URL}/", "s3cret") as api:
        assert api.query("up == 1") == DATA
    (request,) = server.asked
    assert (request.method, str(request.url)) == ("POST", f"{URL}/api/v1/query")
    assert request.content == b"query=up+%3D%3D+1"
    assert request.headers["authorization"] == "Bearer s3cret"


def test_what_is_no_query_is_got_without_a_key() -> None:
    server = Server(well)
    with server.api() as api:
        assert api.ask("rules", type="alert") == DATA
    (request,) = server.asked
    assert (request.method, str(request.url)) == ("GET", f"{URL}/api/v1/rules?type=alert")
    assert "authorization" not in request.headers


def unreachable(request: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError("no route to 10.0.0.7", request=request)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (unreachable, "ConnectError"),
        (lambda request: httpx2.Response(502, text="<html>"), "status 502"),
        (lambda request: httpx2.Response(200, text="<html>"), "not in its own language"),
        (lambda request: httpx2.Response(200, json=[1]), "not in its own language"),
        (lambda request: httpx2.Response(200, json={"status": "success"}), "not in its own language"),
        (lambda request: httpx2.Response(200, json={"status": "error", "data": {}}), "it says 'error'"),
    ],
    ids=["away", "proxy", "page", "list", "no-data", "error"],
)
def test_every_way_of_not_answering_is_one_sentence(
    answer: Callable[[httpx2.Request], httpx2.Response], why: str
) -> None:
    with Server(answer).api() as api, pytest.raises(PrometheusSilent) as caught:
        api.query("up")
    assert str(caught.value) == f"Prometheus does not answer at {URL} ({why})"


def test_an_address_that_is_none_is_said() -> None:
    with PrometheusApi("http://[::1") as api, pytest.raises(PrometheusSilent, match="InvalidURL"):
        api.query("up")


def test_a_password_in_the_address_is_not_shown() -> None:
    with Server(unreachable).api("https://ann:hunter2@prometheus.example/p") as api:
        assert api.url == "https://prometheus.example/p"
        with pytest.raises(PrometheusSilent, match=r"at https://prometheus\.example/p \(ConnectError\)$"):
            api.ask("alerts")

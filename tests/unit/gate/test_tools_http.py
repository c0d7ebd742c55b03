"""Addresses and requests: one reading or none, by the same host that every client would connect to."""

from urllib.parse import urlsplit

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.gate.classify import Classifier
from deployments.gate.tools.http import read_url
from deployments.ports import GateProfile, JsonValue, Risk
from tests.unit.gate.own_bundles import own_classifier

FORBIDDEN = [
    "http://169.254.169.254/", "http://169.254.169.254", "https://169.254.169.254:80/x",
    "http://169.254.170.2/v2/credentials", "http://0xA9FEA9FE/", "http://0xa9.0xfe.0xa9.0xfe/", "http://2852039166/",
    "http://0251.0376.0251.0376/", "http://169.254.43518/", "http://169.16689662/", "http://0251.254.169.254/",
    "http://169.254.169.254./", "http://[::ffff:169.254.169.254]/", "http://[::ffff:a9fe:a9fe]/",
    "http://[0:0:0:0:0:ffff:a9fe:a9fe]/", "http://[64:ff9b::a9fe:a9fe]/", "http://[fd00:ec2::254]/",
    "http://[FD00:EC2::254]/", "http://[fe80::1]/", "http://metadata.google.internal/computeMetadata/v1/",
    "http://METADATA.Google.Internal./", "http://metadata/", "http://instance-data/latest/",
    "http://100.100.100.200/", "http://168.63.129.16/", "http://192.0.0.192/", "http://169.254.169.254.nip.io/",
    "http://169-254-169-254.sslip.io/", "http://www.169.254.169.254.nip.io/", "http://a9fea9fe.nip.io/",
    "http://a@169.254.169.254/", "http://a:b@169.254.169.254/", "http://169.254.169.254@localhost/",
    "http://169.254.169.254\\@localhost/", "http://169.254.169.254#@localhost/", "http://169.254.169.254?x",
    "HTTP://169.254.169.254/", "ftp://169.254.169.254/", "//169.254.169.254/", "169.254.169.254/latest",
]  # fmt: skip
HELD = [
    "", " ", "localhost", "http://", "http:///", "http:/localhost/", "http:localhost/", "https:\\\\localhost",
    "http://localhost\\@evil.example/", "http://localhost@evil.example/", "http://evil.example@localhost/",
    "http://user:pw@localhost/", "http://localhost#@evil.example/", "http://localhost%00.evil.example/",
    "http://localhost%2f@evil.example/", "http://localhost/%2e%2e/x", "http://localhost/../x",
    "http://localhost/./x", "http://localhost//evil.example/", "http://localhost/%00", "http://localhost/%0d%0aX: y",
    "http://localhost/a\r\nX: y", "http://localhost/a b", "http://localhost /", "http://local host/",
    "http://localhost\t/", "http://localhost:22/", "http://localhost:2375/version", "http://localhost:6379/",
    "http://localhost:10250/pods", "http://localhost:99999/", "http://localhost:0/", "http://localhost:02375/",
    "http://localhost:/", "http://localhost:80:80/", "http://127.1/", "http://0x7f.1/", "http://2130706433/",
    "http://0/", "http://[::ffff:127.0.0.1]/", "http://[::1", "http://::1/", "http://10.0.0.1/",
    "http://192.168.1.1/", "http://172.16.0.1/", "http://[fd12::1]/", "http://0.0.0.0/",
    "http://localhost.evil.example/", "http://127.0.0.1.evil.example/", "http://127.0.0.1.nip.io/",
    "http://localtest.me/", "http://xlocalhost/", "http://l\u043ecalhost/", "http://\u24dbocalhost/",
    "http://localhost\u3002evil.example/", "http://xn--localhost-/", "https://example.com/", "file:///etc/passwd",
    "file://localhost/etc/passwd", "gopher://localhost/", "ftp://localhost/", "javascript:alert(1)",
    "data:text/html,x", "ws://localhost/", "unix:/var/run/docker.sock", "http+unix://%2Fvar%2Frun%2Fdocker.sock/x",
    "http://localhost/?q=\u202e", "http://" + "a" * 5000,
]  # fmt: skip
FREE = [
    "http://localhost:8000/healthz",
    "http://localhost/",
    "http://127.0.0.1:5173/app/index.html?x=1&y=2",
    "http://[::1]:3000/x",
]


@pytest.mark.parametrize("tool", ["WebFetch", "http_request"])
def test_addresses(classifier: Classifier, tool: str) -> None:
    def found(url: str) -> tuple[Risk, str]:
        result = classifier.classify(tool, {"url": url}, GateProfile.CODING)
        assert "classifier.error" not in result.rules, url
        return result.risk, result.outcome.value

    for url in FREE:
        assert found(url) == (Risk.R0, "release"), url
    for url in HELD:
        risk, outcome = found(url)
        assert (outcome, risk.rank >= Risk.R2.rank) == ("hold", True), url
    for url in FORBIDDEN:
        assert found(url) == (Risk.FORBIDDEN, "forbid"), url


HEADERS: list[JsonValue] = [
    {"Authorization": "x"},
    {"Cookie": "x"},
    {"Host": "evil"},
    {"X-HTTP-Method-Override": "DELETE"},
    {"Metadata-Flavor": "Google"},
    {"Accept": 1},
    {"Accept": ["a"]},
    {"accept\r\nhost": "x"},
    {"": "x"},
    ["Accept: a"],
    "Accept: a",
]
BODIES: list[JsonValue] = [{"x": 1}, "x", [1], 0, False]


def test_what_a_request_does(classifier: Classifier) -> None:
    def risk(**arguments: JsonValue) -> Risk:
        return classifier.classify("http_request", {"url": "http://localhost:8000/x", **arguments}).risk

    assert risk() is Risk.R0
    assert risk(method="get") is Risk.R0
    assert risk(method="HEAD", headers={"Accept": "a", "User-Agent": "b"}) is Risk.R0
    for method in ("POST", "PUT", "PATCH", "DELETE", "post", "TRACE", "CONNECT", "GET /x", "GET\r\n", "BREW", " "):
        assert risk(method=method).rank >= Risk.R2.rank, method
    for headers in HEADERS:
        assert risk(headers=headers).rank >= Risk.R2.rank, headers
    for body in BODIES:
        assert risk(body=body).rank >= Risk.R2.rank, body
    assert risk(follow_redirects=True) is Risk.R1
    assert risk(verify=False) is Risk.R2
    assert risk(proxy="http://localhost:1/").rank >= Risk.R2.rank


def test_the_reason_is_said(classifier: Classifier) -> None:
    def rules(url: str, **arguments: JsonValue) -> tuple[str, ...]:
        return classifier.classify("http_request", {"url": url, **arguments}).rules

    assert "http.method" in rules("http://localhost/", method="BREW")
    assert "http.address" in rules("http://[::ffff:127.0.0.1]/")
    assert "http.address" in rules("http://127.0.0.1.nip.io/")
    assert "http.port" in rules("http://localhost:2375/")


def test_a_request_with_a_body_shows_it(classifier: Classifier) -> None:
    found = classifier.classify("http_request", {"url": "http://localhost/x", "method": "POST", "body": "a\u202eb"})
    assert found.preview == "sends\n  POST http://localhost/x\n  body: a\\u202eb"


@given(
    st.lists(
        st.sampled_from(
            [
                "http",
                "https",
                "://",
                "/",
                "//",
                ":",
                "@",
                "#",
                "?",
                "\\",
                ".",
                "..",
                "%",
                "%2e",
                "%40",
                "[",
                "]",
                "[::1]",
                "localhost",
                "evil.example",
                "127.0.0.1",
                "169.254.169.254",
                "0x7f",
                "1",
                "80",
                "443",
                "a",
                "-",
                " ",
                "\t",
                "\n",
                "\u3002",
                "\uff0f",
                "x=1",
                "&",
            ]
        ),
        max_size=12,
    ).map("".join)
)
def test_every_client_reads_the_same_host(text: str) -> None:
    url = read_url(text)
    if url is None:
        return
    split = urlsplit(text)
    assert (split.hostname or "").rstrip(".") in {url.host, url.host.strip("[]")}
    assert split.username is None
    # IDNA and the like may refuse a name; what is accepted is the same.
    try:
        other = httpx2.URL(text)
    except httpx2.InvalidURL:
        return
    assert other.host.rstrip(".") == url.host
    assert (other.port is None) == (url.port is None or (url.scheme, url.port) in {("http", "80"), ("https", "443")})


ROUTED = """
targets:
  host:
    - {match: [api.internal], env: prod}
tools:
  - adapter: http
    names: [inventory]
    url: [url]
    method: [method]
    body: [body]
    strict: true
    routes:
      - {methods: [GET], paths: ["/v1/items", "/v1/items/{}"], hosts: [api.internal], class: R0, reason: reads stock}
      - {methods: [GET], paths: ["/v1/users/**"], hosts: [api.internal], class: R1, reason: reads about people}
      - {methods: [POST], paths: ["/v1/items/{}/reserve"], hosts: [api.internal], class: R2, reason: reserves}
    examples:
      - {arguments: {url: "https://api.internal/v1/items"}, risk: R0}
"""


def test_routes_say_what_paths_are_worth() -> None:
    classifier = own_classifier(ROUTED)

    def risk(path: str, **more: JsonValue) -> Risk:
        return classifier.classify("inventory", {"url": f"https://api.internal{path}", **more}).risk

    assert risk("/v1/items") is Risk.R0
    assert risk("/v1/items/a-1.2") is Risk.R0
    assert risk("/v1/items/a?x=1") is Risk.R0
    assert risk("/v1/users/ann/orders") is Risk.R2  # R1 in production
    assert risk("/v1/items/a/reserve", method="POST", body={"n": 1}) is Risk.R2
    for path in ("/v1/items/", "/v1/items/a/b", "/v1/items/%2fx", "/v1/Items", "/v1/secrets", "/", "/v1/users/a%20b"):
        assert risk(path).rank >= Risk.R2.rank, path
    assert risk("/v1/items", body={"x": 1}).rank >= Risk.R2.rank
    elsewhere = classifier.classify("inventory", {"url": "https://api.internal.evil.example/v1/items"})
    assert elsewhere.risk is Risk.R3

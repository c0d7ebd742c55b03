import base64
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.audit.secrets_scan import Masked, ScanFailed, mask
from deployments.clock import FixedClock, SystemClock
from deployments.tenancy.keys import generate

X = "Zx9Kq2Lm8Rt4Vw6Yb1Nc3Pd5Sf7Gh0Jk"


def _part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


JWT = f"{_part({'alg': 'HS256', 'typ': 'JWT'})}.{_part({'sub': '1234567890'})}.SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV"
PEM = (
    "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,AB12\n\n"
    f"MIIEow{X}{X}\n{X}==\n-----END RSA PRIVATE KEY-----"
)
# kind, text around the secret, secret
SECRETS = [
    ("private_key", "{}", PEM),
    ("private_key", "{}", f"PuTTY-User-Key-File-2: ssh-rsa\nPrivate-Lines: 1\n{X}\nPrivate-MAC: {'ab' * 20}"),
    ("private_key", "{}", f"PRIVATE+KEY+log.example+0a1b2c3d+{X}{X}"),
    ("gatehouse_key", "use {} please", generate(bytes(range(40))).text),
    ("jwt", "cookie {}", JWT),
    ("aws_key_id", "{}", "AKIAABCDEFGH12345678"),
    ("google_key", "{}", f"AIza{X}abc"),
    ("azure_key", "DefaultEndpointsProtocol=https;AccountKey={}", f"{X}{X}abcdefghijklmnopqrstuv=="),
    ("github_token", "{}", "ghp_" + "a1B2c3D4e5F6" * 3),
    ("github_token", "{}", f"github_pat_{X}"),
    ("gitlab_token", "{}", f"glpat-{X[:20]}"),
    ("slack_token", "{}", f"xoxb-1234567890-1234567890-{X[:24]}"),
    ("stripe_key", "{}", f"sk_live_{X[:24]}"),
    ("sk_key", "{}", f"sk-proj-{X}"),
    ("package_token", "{}", f"npm_{X}abcd"),
    ("package_token", "//registry.example.org/:_authToken={}", "abcdefghij"),
    ("huggingface_token", "{}", f"hf_{X}ab"),
    ("sendgrid_key", "{}", f"SG.{X[:22]}.{X}{X[:11]}"),
    ("url_password", "postgres://app:{}@db.internal/x", "s3cr3t-pw"),
    ("authorization", "Authorization: Basic {}", "YWRtaW46aHVudGVyMg=="),
    ("authorization", "send Bearer {} along", X),
    ("password", 'password = "{}"', "hunter-two"),
    ("password", "DB_PASSWORD={}", "hunter22x"),
    ("password", "api_key: '{}'", "abcdefghi"),
    ("password", '{{"client_secret": "{}"}}', "abcdefghijk"),
    ("password", "aws_secret_access_key = {}", f"{X}abcdefgh"),
    ("password", "tool --token {} run", "abcdefg"),
    ("password", "curl -u admin:{} https://x", "pa55word"),
]
FORMS: dict[str, Callable[[str], str]] = {
    "plain": lambda text: text,
    "json": lambda text: json.dumps({"content": f"\n{text}\n"}),
    "json in json": lambda text: json.dumps({"arguments": json.dumps({"content": f"\n{text}\n"})}),
}


def _masked(text: str) -> Masked:
    return mask(text.encode(), SystemClock(), 30)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("kind", "around", "secret"), SECRETS)
def test_a_secret_is_masked_whole_and_once_in_every_form(form: str, kind: str, around: str, secret: str) -> None:
    text = FORMS[form](around.format(secret))
    masked = _masked(text)
    assert masked.count == 1
    assert masked.data.decode() == FORMS[form](around.format(f"[masked:{kind}]"))
    if form != "plain":
        json.loads(masked.data)


@pytest.mark.parametrize("form", FORMS)
def test_of_a_private_key_that_is_cut_off_nothing_is_left(form: str) -> None:
    masked = _masked(FORMS[form](PEM.partition("-----END")[0]))
    assert masked.count == 1
    assert X.encode() not in masked.data
    if form != "plain":
        json.loads(masked.data)


@pytest.mark.parametrize(
    "text",
    [
        "def login(user: str, password: str) -> Token: ...",
        "password = os.environ['DB_PASSWORD']",
        "token: Optional[str] = None, max_tokens: 4096, tokenizer='tiktoken'",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "commit 2464952f6983ce12aa52c428b0ea9361978e0000 risk-management-overview-of-the-quarter",
        "https://example.org:8443/path?user=a@b.c and ssh://git@example.org/x",
        "kubectl get secret/app-credentials -o yaml; secretName: app-credentials",
    ],
)
def test_code_digests_and_addresses_are_left_alone(text: str) -> None:
    for form in FORMS.values():
        assert _masked(form(text)) == Masked(form(text).encode(), 0)


def test_masking_again_changes_nothing() -> None:
    once = _masked("\n".join(around.format(secret) for _, around, secret in SECRETS))
    assert mask(once.data, SystemClock(), 30) == Masked(once.data, 0)


@given(st.binary(max_size=2_000))
def test_any_bytes_pass_and_equal_bytes_give_equal_results(data: bytes) -> None:
    masked = mask(data, SystemClock(), 30)
    assert masked == mask(data, SystemClock(), 30)
    assert masked.count or masked.data == data


def test_bytes_that_are_no_utf8_are_scanned_for_what_is_ascii_in_them() -> None:
    masked = mask(b"\xff\xfe password='hunter22' \x80", SystemClock(), 30)
    assert masked == Masked(b"\xff\xfe password='[masked:password]' \x80", 1)


def test_a_scan_without_time_left_fails_instead_of_passing_what_it_has_not_seen() -> None:
    with pytest.raises(ScanFailed):
        mask(b"password='hunter22'", FixedClock(), 0)


def test_a_scan_stops_in_the_middle_of_a_rule() -> None:
    with pytest.raises(ScanFailed):
        mask(b"password=" * 4_000_000, FixedClock(), 0.01)

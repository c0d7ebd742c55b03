"""Texts with something to find, and texts with nothing. Secrets are put together here: no file holds one."""

import base64
import json

WORD = "Zx9Kq2Lm8Rt4Vw6Yb1Nc3Pd5Sf7Gh0Jk"
DASHES = "-" * 5


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


JWT = ".".join([part({"alg": "HS256", "typ": "JWT"}), part({"sub": "1234567890"}), WORD])
PEM = f"{DASHES}BEGIN RSA PRIVATE KEY{DASHES}\nMIIEow{WORD}{WORD}\n{WORD}==\n{DASHES}END RSA PRIVATE KEY{DASHES}"

# kind, text around it, what is found
PII = [
    ("email", "write to {} now", "bob.smith+news@mail.example.co.uk"),
    ("email", "<{}>,", "jürgen@example.de"),
    ("phone", "call {}.", "+49 30 1234567"),
    ("phone", "call {}.", "+49 (0)30 123 45 67"),
    ("phone", "tel: {}", "+4930123456789"),
    ("phone", "{} or later", "(415) 555-2671"),
    ("phone", "{}", "415-555-2671"),
    ("card", "paid with {}.", "4111 1111 1111 1111"),
    ("card", "{}", "4111111111111111"),
    ("card", "{}", "5500-0000-0000-0004"),
    ("card", "amex {}", "3782 822463 10005"),
    ("iban", "to {} please", "DE89 3704 0044 0532 0130 00"),
    ("iban", "{}", "GB82WEST12345698765432"),
    ("iban", "{}", "FR14 2004 1010 0505 0001 3M02 606"),
    ("us_ssn", "ssn {}", "123-45-6789"),
    ("uk_nino", "{}", "AB 12 34 56 C"),
    ("de_tax_id", "Steuer-ID {}", "86 095 742 719"),
    ("fr_nir", "{}", "1 85 05 78 006 084 91"),
    ("es_dni", "{}", "12345678Z"),
    ("es_dni", "{}", "X1234567L"),
    ("it_fiscal_code", "{}", "RSSMRA85T10A562S"),
    ("br_cpf", "{}", "529.982.247-25"),
]
SECRETS = [
    ("private_key", "{}", PEM),
    ("private_key", '"{}"', PEM.replace("\n", "\\n")),
    ("private_key", "{}", f"{DASHES}BEGIN PRIVATE KEY{DASHES}\n{WORD}{WORD}\n{WORD}"),
    ("jwt", "cookie {}", JWT),
    ("aws_key", "{}", "AKIA" + "ABCDEFGH12345678"),
    ("google_key", "{}", f"AIza{WORD}abc"),
    ("azure_key", "DefaultEndpointsProtocol=https;AccountKey={}", f"{WORD}{WORD}abcdefghijklmnopqrstuv=="),
    ("github_token", "{}", "ghp_" + "a1B2c3D4e5F6" * 3),
    ("github_token", "{}", f"github_pat_{WORD}"),
    ("gitlab_token", "{}", f"glpat-{WORD[:20]}"),
    ("slack_token", "{}", f"xoxb-1234567890-1234567890-{WORD[:24]}"),
    ("slack_token", "https://hooks.slack.com/services/{}", f"T00000000/B00000000/{WORD[:24]}"),
    ("stripe_key", "{}", f"sk_live_{WORD[:24]}"),
    ("api_key", "{}", f"sk-proj-{WORD}"),
    ("gatehouse_key", "{}", "gh-" + "a1B2c3D4e5" * 4),
    ("package_token", "{}", f"npm_{WORD}abcd"),
    ("huggingface_token", "{}", f"hf_{WORD}ab"),
    ("sendgrid_key", "{}", f"SG.{WORD[:22]}.{WORD}{WORD[:11]}"),
    ("vault_token", "{}", f"hvs.{WORD}"),
    ("age_key", "{}", "AGE-SECRET-KEY-1" + "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L" * 2),
    ("url_password", "postgres://app:{}@db/x", "s3cr3t-pw"),
    ("authorization", "Authorization: Bearer {}", WORD),
    ("authorization", "Authorization: Basic {}", "YWRtaW46aHVudGVyMg=="),
    ("credential", 'password = "{}"', "hunter2-two"),
    ("credential", "DB_PASSWORD={}", "hunter22x"),
    ("credential", "api_key: '{}'", "Abcdefghi9"),
    ("credential", '{{"client_secret": "{}"}}', "abcdefghijk1"),
    ("credential", '{{\\"client_secret\\": \\"{}\\"}}', "abcdefghijk1"),
    ("credential", "aws_secret_access_key = {}", f"{WORD}abcdefgh"),
    ("credential", "tool --db-password {} run", "abcdefg1"),
    ("credential", 'env["API_KEY"] = "{}"', "q8Wn2Lx9"),
]
ALL = PII + SECRETS

LOREM = (
    "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt ut labore et dolore "
    "magna aliqua. Ut enim ad minim veniam; quis nostrud exercitation ullamco laboris nisi ut aliquip ex ea commodo "
    "consequat."
)
CODE = '''
@dataclass(frozen=True)
class Token:
    """A token; `token_type` is 'bearer'."""

    token: str = ""
    max_tokens: int = 4096
    password: str | None = None
    api_key = os.environ["API_KEY"]
    secret = get_secret("billing/stripe")
    key = hashlib.sha256(b"gatehouse").hexdigest()

    def check(self, password: str, secret_key: SecretKey) -> bool:
        token = self.next_token(password=password, token=request.headers.get("authorization"))
        if token == "next_page_token" or self.token != other.token:
            raise ValueError("password must have 8 characters")
        return hmac.compare_digest(token, password)

const apiKey = process.env.API_KEY ?? config.apiKey;
auth: { token: "${TOKEN}", password: "<your-password>", secret: "changeme", key: "user_id" }
password: "example-password-1"
export TOKEN=$(cat /run/secrets/token)  # token=/run/secrets/token2
git clone git@github.com:acme/app.git && npm install react@18.2.0 @types/node@20.1.1
@@ -12,7 +14,8 @@ def f(x): return x[1:-1] + 1_000_000 - 0x7fffffff * 3.14159265358979323846
+1234567890
margin: 0 auto; color: #4111aa; version = "10.0.19045.3803"; phi = 1.6180339887498948482
'''
LOGS = "\n".join(
    [
        "2026-11-22T07:11:11.123Z INFO request_id=550e8400-e29b-41d4-a716-446655440000 status=200 bytes=123456789012",
        "commit 3f786850e387550fdab836ed7e6dc881de23001b (tag: v1.2.3)",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        'md5 d41d8cd98f00b204e9800998ecf8427e etag="686897696a7c876b7e"',
        "12345678-1234-1234-1234-123456789012 1732259471123 1732259471 17:11:11 10.0.12.7:8080",
        "fe80::1ff:fe23:4567:890a",
        "integrity sha512-" + base64.b64encode(bytes(range(64))).decode(),
        "pid 4111 1111 and 2222 3333 4444, load 0.4111111111111111 1.5500000000000004 order 1234567890123456",
        "tokens: 4096, max_tokens=8192, prompt_tokens: 1200, token_count: 88, keys: 12, password_hash: none",
        "2024-01-02 123-456 555-1234 01/02/2024 1-2-3 3.14 v10.2.33 (1999) [2024] 100,000 1e-10",
        "GET /v1/users/12345678/keys?page=2&token_type=bearer HTTP/1.1 200 12345",
    ]
)
CLEAN = {"lorem": LOREM, "code": CODE, "logs": LOGS, "empty": "", "chinese": "这是一个没有秘密的句子。" * 20}

"""Tools that send a request: method, host, path and body decide; where redirects lead cannot be seen from here."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from deployments.gate.grammar import ClassOf, class_of
from deployments.gate.judge import Finding, Judge
from deployments.gate.shell.atoms import Word
from deployments.gate.tables import Base
from deployments.gate.tool_specs import HttpRoute, HttpTool
from deployments.gate.tools import preview
from deployments.gate.tools.arguments import (
    Misfit,
    Reading,
    Values,
    check_known,
    fault,
    one_text,
    option_findings,
    optional_text,
)
from deployments.ports import JsonValue, Risk

MAX_URL = 4096
READS = frozenset({"GET", "HEAD", "OPTIONS"})
_METHODS = READS | {"POST", "PUT", "PATCH", "DELETE"}
# Nothing that two readers of addresses could split differently: no user part, no backslash, no blank, no fragment.
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)?(?:\?(?P<query>[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*))?"
)
_PORTS = {"http": frozenset({"80", "8000", "8080"}), "https": frozenset({"443", "8443"})}
# On this machine any other port may be a server under development; these are doors of a machine or a cluster.
_DOORS = frozenset({"2375", "2376", "2379", "2380", "3306", "5432", "5672", "6379", "6443", "9200", "10250", "10255",
                    "10257", "10259", "11211", "27017"})  # fmt: skip
_NUMBER_LIKE = re.compile(r"(0[xX][0-9A-Fa-f]*|[0-9]+)(\.(0[xX][0-9A-Fa-f]*|[0-9]+)){0,3}\.?")
_ODD_ENCODING = re.compile(r"%(?![0-9A-Fa-f]{2})|%(2[eEfF5]|5[cC]|0[0-9A-Fa-f]|1[0-9A-Fa-f]|7[fF])")
_SEGMENT = re.compile(r"[A-Za-z0-9._~@:-]+")
# Names that answer with the number in them: whoever runs the service decides what they mean.
_NUMBER_SERVICES = (".nip.io", ".sslip.io", ".xip.io", ".localtest.me", ".lvh.me")
METADATA = tuple(
    ipaddress.ip_network(text)
    for text in ("169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128", "fd20:ce::254/128", "100.100.100.200/32",
                 "168.63.129.16/32", "192.0.0.192/32")
)  # fmt: skip
_METADATA_NAMES = frozenset({"metadata", "metadata.google.internal", "metadata.goog", "instance-data",
                             "instance-data.ec2.internal"})  # fmt: skip

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Url:
    """An address that everybody reads alike: `host` in lower case, `address` when it is a number."""

    scheme: str
    host: str
    port: str | None
    path: str
    query: str
    address: Address | None


def read_http(judge: Judge, spec: HttpTool, values: Values) -> Reading:
    """One request."""
    known = (*spec.url, *spec.method, *spec.headers, *spec.body, *spec.options, *spec.raises)
    check_known(values, known)
    text = one_text(values, spec.url, "address")
    method = (optional_text(values, spec.method, "method") or spec.default_method).upper()
    findings = option_findings(judge, spec, values)
    findings += [_headers(judge, spec, values[name]) for name in spec.headers if name in values]
    bodies = [name for name in spec.body if values.get(name) not in (None, "")]
    findings += judge_url(judge, text, _class(spec, method, text, bool(bodies)), _reason(method, bool(bodies)))
    if method not in _METHODS:
        findings.append(fault("http.method", "the method is not a known one"))
    shown = [f"{method} {text}", *(f"{name}: {values[name]}" for name in (*spec.headers, *bodies) if name in values)]
    return Reading(tuple(findings), preview.of_text("sends", "\n".join(shown)) if bodies else None)


def judge_url(judge: Judge, text: str, class_of_request: ClassOf, reason: str) -> list[Finding]:
    """A request to the address `text`, by its host; `FORBIDDEN` for those that hand out a machine's credentials."""
    if _is_metadata(text):
        return [fault("http.metadata", "the address is one that hands out credentials of the machine", Risk.FORBIDDEN)]
    url = read_url(text)
    if url is None:
        return [fault("http.address", "the address may be read in several ways, or is not plain http(s)")]
    found = [judge.fields([("host", Word(url.host))], class_of_request, reason, False)]
    if url.port is not None and not _is_usual(url, url.port):
        found.append(fault("http.port", "the port is an unusual one"))
    if any(url.host.endswith(name) for name in _NUMBER_SERVICES):
        found.append(fault("http.address", "the name stands for an address of its owner's choice"))
    return found


def read_url(text: str) -> Url | None:
    """The parts of `text`, or None for what two readers may read differently."""
    match = _URL.fullmatch(text) if len(text) <= MAX_URL else None
    if match is None or _ODD_ENCODING.search(text):
        return None
    host = match["host"].lower().removesuffix(".")
    path = match["path"] or "/"
    if not host or ".." in host or "//" in path or any(part in {".", ".."} for part in path.split("/")):
        return None
    address: Address | None = None
    if host.startswith("[") or _NUMBER_LIKE.fullmatch(host):
        try:
            address = ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            return None  # 0x7f.1, 2130706433, 0177.0.0.1: a number to some, a name to others
        host = str(address)
        if isinstance(address, ipaddress.IPv6Address) and (address.ipv4_mapped or address.sixtofour or address.teredo):
            return None
    return Url(match["scheme"], host, match["port"], path, match["query"] or "", address)


def _is_metadata(text: str) -> bool:
    """True when any reader could find such an address in `text`, whatever else it holds."""
    rest = re.sub(r"\A\s*(?:[A-Za-z][A-Za-z0-9+.-]*:)?[/\\]*", "", text)
    hosts = re.split(r"[/?#\\]", rest, maxsplit=1)[0].split("@")
    return any(_names_metadata(host) for host in hosts)


def _names_metadata(written: str) -> bool:
    host = written.strip().lower()
    host = host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.split(":", 1)[0]
    host = host.strip("[]").rstrip(".")
    if host in _METADATA_NAMES:
        return True
    if any(host.endswith(name) for name in _NUMBER_SERVICES) and any(map(_is_in, _embedded(host))):
        return True
    return any(_is_in(address) for address in _numbers(host))


def _embedded(host: str) -> list[Address]:
    """The addresses in a name that stands for one: dotted, with dashes, or in eight hexadecimal digits."""
    dotted = [re.sub("-", ".", found) for found in re.findall(r"(?:[0-9]{1,3}[.-]){3}[0-9]{1,3}", host)]
    digits = re.findall(r"(?<![0-9a-f])[0-9a-f]{8}(?![0-9a-f])", host)
    return [
        *(address for text in dotted for address in _numbers(text)),
        *(ipaddress.IPv4Address(int(each, 16)) for each in digits),
    ]


def _numbers(host: str) -> list[Address]:
    """Every address that the number `host` is to somebody: dotted, short, hexadecimal, octal, or inside an IPv6 one."""
    try:
        plain = ipaddress.ip_address(host)
    except ValueError:
        plain = None
    found: list[Address] = [] if plain is None else [plain]
    if isinstance(plain, ipaddress.IPv6Address):
        inner = [plain.ipv4_mapped, plain.sixtofour, ipaddress.IPv4Address(int(plain) & 0xFFFFFFFF)]
        return found + [each for each in inner if each is not None]
    if _NUMBER_LIKE.fullmatch(host):
        found += [address for octal in (True, False) if (address := _classic(host, octal)) is not None]
    return found


def _classic(host: str, octal: bool) -> Address | None:
    """What `inet_aton` makes of one to four numbers; without `octal`, leading zeros mean nothing."""
    try:
        parts = [_whole(part, octal) for part in host.rstrip(".").split(".")]
    except ValueError:
        return None
    *leading, last = parts
    if any(part > 255 for part in leading) or last >= 256 ** (5 - len(parts)):
        return None
    value = last
    for place, part in enumerate(leading):
        value += part << (24 - 8 * place)
    return ipaddress.IPv4Address(value)


def _whole(text: str, octal: bool) -> int:
    if text[:2].lower() == "0x":
        return int(text, 16)
    return int(text, 8 if octal and len(text) > 1 and text[0] == "0" else 10)


def _is_in(address: Address) -> bool:
    return any(address.version == network.version and address in network for network in METADATA)


def _is_usual(url: Url, port: str) -> bool:
    local = url.host == "localhost" or (url.address is not None and url.address.is_loopback)
    return port in _PORTS[url.scheme] or (local and 1024 <= int(port) <= 65535 and port.lstrip("0") not in _DOORS)


def _class(spec: HttpTool, method: str, text: str, has_body: bool) -> ClassOf:
    """The class of a request before its host is looked at: the worst route that lists it, else by its method."""
    base = ClassOf(Base.R0, Base.R0) if method in READS and not has_body else ClassOf(Base.R2, Base.R2)
    url = read_url(text)
    routes = [] if url is None else [route for route in spec.routes if _lists(route, method, url)]
    if not routes:
        return ClassOf(Base.UNKNOWN, Base.UNKNOWN) if spec.strict else base
    found = class_of(routes[0].class_)
    # A body makes a change of what is listed as a read.
    return found if not has_body or method not in READS else base


def _lists(route: HttpRoute, method: str, url: Url) -> bool:
    return (
        method in route.methods
        and any(fnmatchcase(url.host, host) for host in route.hosts)
        and any(_fits(template, url.path) for template in route.paths)
    )


def _fits(template: str, path: str) -> bool:
    wanted, given = template.split("/"), path.split("/")
    if wanted and wanted[-1] == "**":
        wanted, given = wanted[:-1], given[: len(wanted) - 1]
        if any(not _SEGMENT.fullmatch(part) for part in path.split("/")[1:] if part):
            return False
    return len(wanted) == len(given) and all(
        _SEGMENT.fullmatch(part) is not None if want == "{}" else want == part
        for want, part in zip(wanted, given, strict=True)
    )


def _headers(judge: Judge, spec: HttpTool, value: JsonValue) -> Finding:
    """Headers: the usual ones say nothing; others carry credentials, or change the method or the host."""
    if not isinstance(value, Mapping):
        raise Misfit("the headers are not an object")
    if all(name.lower() in spec.safe_headers and isinstance(each, str) for name, each in value.items()):
        return judge.fields((), class_of("R0"), "names what it accepts", False)
    return fault("http.headers", "it sends headers that may carry credentials or change the request")


def _reason(method: str, has_body: bool) -> str:
    what = "asks" if method in READS and not has_body else "sends a request that may change something"
    return f"{what} over the network; where a redirect would lead is not known"

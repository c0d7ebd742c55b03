"""A machine without a network gets Gatehouse from a bundle and serves; one with a network is asked for nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.airgap.conftest import Site
from tests.airgap.namespaces import EVERY_WAY_ENDS_HERE, NO_WAY_OUT, inside, outside, watched

HERE = Path(__file__).parent
CALL = '{"command":"kubectl delete namespace staging"}'
REACH_OUT = """
import socket
def turn(family, kind, place):
    try:
        with socket.socket(family, kind) as each:
            each.settimeout(1)
            each.connect(place)
    except OSError:
        pass
turn(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 9))
turn(socket.AF_INET, socket.SOCK_STREAM, ("192.0.2.1", 443))
turn(socket.AF_INET, socket.SOCK_DGRAM, ("192.0.2.53", 53))
turn(socket.AF_INET6, socket.SOCK_STREAM, ("2001:db8::1", 443))
turn(socket.AF_INET6, socket.SOCK_STREAM, ("::1", 9))
turn(socket.AF_INET6, socket.SOCK_STREAM, ("::ffff:127.0.0.1", 9))
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.99", 9))
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendmsg([b"x"], [], 0, ("192.0.2.98", 9))
try:
    socket.getaddrinfo("name.invalid", 443)
except OSError:
    pass
"""


def serve(site: Site, network: str, port: int, record: Path | None = None) -> dict:
    python = str(site.target / "current" / "venv" / "bin" / "python")
    drive = (python, str(HERE / "drive.py"), str(site.target), str(port))
    command = inside(network, *(watched(record, *drive) if record else drive))
    done = subprocess.run(command, capture_output=True, text=True, env=site.environment, check=False)
    assert done.stdout.strip(), done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def check_job(said: dict) -> None:
    assert said["ready"], said["output"]
    status, model, text = said["asked"]
    assert (status, model) == (200, "demo-20b"), said
    assert "demo-20b" in text
    status, state, text = said["response"]
    assert (status, state) == (200, "completed"), said
    assert said["kept"] == [200, text], "a response is found again"
    assert "demo-20b" in text
    assert said["middle"] == [200, "emulated"]
    assert said["held"] == [200, True, []], "a dangerous call is withheld"
    assert said["approved"][0] == 0, said["approved"]
    assert [json.loads(each) for each in said["released"]] == [json.loads(CALL)]
    assert said["again"] == [], "one approval is one release"
    status, names = said["metrics"]
    assert status == 200
    assert {"gatehouse_requests_total", "gatehouse_policy_total", "gatehouse_audit_records"} <= set(names)
    code, shown, error = said["on call"]
    assert code in (0, 1), (shown, error)  # nothing is down; nobody has made a backup of it
    seen = {each["topic"]: each["state"] for each in json.loads(shown)["lines"]}
    assert {seen[topic] for topic in ("server", "parts", "engines")} == {"ok"}, shown
    assert said["audit"][0] == 0, said["audit"]
    assert said["status"] == 0, said["output"]


def test_what_reaches_out_is_seen(scratch: Path) -> None:
    record = scratch / "reach.txt"
    command = inside(EVERY_WAY_ENDS_HERE, *watched(record, sys.executable, "-c", REACH_OUT))
    subprocess.run(command, check=True, capture_output=True)
    seen = [line.split(": ")[0] for line in outside(record)]
    assert {"192.0.2.1", "192.0.2.53", "2001:db8::1", "192.0.2.98", "192.0.2.99"} <= set(seen)
    resolver = [each for each in seen if not each.startswith(("192.0.2.", "2001:db8:"))]
    nameservers = [
        line.split()[1] for line in Path("/etc/resolv.conf").read_text().splitlines() if line[:10] == "nameserver"
    ]
    assert set(resolver) <= set(nameservers), "nothing of this machine counts as outside"
    assert resolver or all(each.startswith("127.") for each in nameservers)


@pytest.mark.parametrize("name", ["wheels", "weights", "vocabulary", "configs"])
def test_the_bundle_has_it(site: Site, name: str) -> None:
    assert any(path.is_file() for path in (site.bundle / name).rglob("*"))


def test_without_a_route_it_installs_and_serves_the_main_job(installed: Site) -> None:
    said = serve(installed, NO_WAY_OUT, 18_801)
    assert said["routes"] == "", "there is no way out"
    check_job(said)


def test_a_second_installation_is_done_at_once(installed: Site) -> None:
    done = installed.install()
    assert done.returncode == 0, done.stderr
    assert "installed before" in done.stdout


def test_a_full_run_turns_to_no_address_but_this_machine_s_own(installed: Site, scratch: Path) -> None:
    record = scratch / "run.txt"
    said = serve(installed, EVERY_WAY_ENDS_HERE, 18_802, record)
    check_job(said)
    assert "127.0.0.1" in record.read_text(errors="replace"), "the record is of this run"
    assert outside(record) == []

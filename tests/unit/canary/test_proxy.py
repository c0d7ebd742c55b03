"""Through a real `kubectl proxy`, as docs/kuberay.md has it."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_app.canary.cluster import Cluster
from serve_app.canary.values import Changed
from tests.unit.canary.conftest import Bench
from tests.unit.canary.world import NAMESPACE


@pytest.fixture
def proxy(served_bench: Bench, tmp_path: Path) -> Iterator[str]:
    """The address of a proxy before the world's API server."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed; its proxy was not tried")
    (tmp_path / "config").write_text("apiVersion: v1\nkind: Config\n")
    command = [kubectl, "proxy", f"--server={served_bench.url}", "--port=0", f"--kubeconfig={tmp_path / 'config'}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"127\.0\.0\.1:\d+", process.stdout.readline())
            assert found
            yield f"http://{found[0]}"
        finally:
            process.terminate()


def test_what_is_read_and_written_goes_through(served_bench: Bench, proxy: str) -> None:
    with Cluster(proxy, NAMESPACE, "gatehouse", {}) as cluster:
        seen, _ = cluster.look()
        assert seen.active is not None
        assert (seen.active.name, seen.route_problem) == ("gatehouse-aaaaa", None)
        cluster.write(seen, "mine")
        assert served_bench.world.service["metadata"]["annotations"]["gatehouse/canary"] == "mine"
        with pytest.raises(Changed):
            cluster.write(seen, "another")

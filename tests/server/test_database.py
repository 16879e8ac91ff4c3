"""`up` with its database in a Postgres that comes late, goes away and comes back."""

import os
import socket
import subprocess
from pathlib import Path

import pytest

from orchestration.instance.home import POSTGRES_VARIABLE
from tests.harness.forks import command_of
from tests.harness.postgres import PASSWORD, Postgres
from tests.harness.processes import ORCHESTRATION, wait_until
from tests.harness.up_server import (
    checkout_of,
    copy_project,
    pretend_done,
    started,
    write_products,
)

pytestmark = pytest.mark.long


def test_up_and_its_runs_wait_for_their_database(
    cluster: Postgres, tmp_path: Path, sample_dcpy: dict[str, str]
) -> None:
    project = copy_project(tmp_path)
    begun, gate, done = (tmp_path / name for name in ("begun", "gate", "done"))
    command = f"touch {begun}; until [ -e {gate} ]; do sleep 0.1; done; touch {done}"
    write_products(project, {"slow": command})
    pretend_done(project, "slow", "load", "main")
    cluster.start()
    url = cluster.create_database("up")
    cluster.stop()
    with started(project, env={**sample_dcpy, POSTGRES_VARIABLE: url}) as server:
        server.wait_for_output("Connection refused; waiting for it.")
        cluster.start()
        server.wait_until_up("ingest", "slow")
        server.wait_for(lambda: "main" in server.partitions("slow"))
        followed = tmp_path / "followed"
        with followed.open("w") as output:
            launch = subprocess.Popen(
                [*ORCHESTRATION, "launch", "slow/build", "main", "--port", str(server.port)],
                cwd=project,
                env={**os.environ, "DATA_ENGINEERING_ROOT": str(checkout_of(project))},
                stdout=output,
                stderr=output,
            )
        server.wait_for(begun.exists)
        before = server.processes()
        told = [command_of(pid) for pid in before]
        assert not [line for line in told if PASSWORD.encode() in line]
        cluster.stop()
        gate.touch()
        assert wait_until(done.exists)
        server.wait_for_output("[daemon] Dagster's Postgres database up on")
        waits = "slow/build waits. The server at"
        assert wait_until(lambda: waits in followed.read_text()), followed.read_text()
        cluster.start()
        assert launch.wait(60) == 0, followed.read_text()
        assert PASSWORD not in followed.read_text()
        assert server.loads() and "ended" not in server.output
        assert PASSWORD not in server.output and "Traceback" not in server.output
        assert cluster.query("up", "select status from runs") == ["SUCCESS"]

        (tmp_path / "second").mkdir()
        second = copy_project(tmp_path / "second")
        with started(second, env={**sample_dcpy, POSTGRES_VARIABLE: url}) as another:
            assert another.wait_for_end() == 1
            assert (
                f"Another `up` has Dagster's Postgres database up on {cluster.address}"
                in another.output
            )
            assert f", on {socket.gethostname()}: two would launch" in another.output
        assert server.stop() == 0

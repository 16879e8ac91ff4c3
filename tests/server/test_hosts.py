"""`up` and another host that serves some of its locations, with one database between them."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import yaml
from dagster import DagsterInstance

from orchestration import OrchestrationError
from orchestration.instance.home import POSTGRES_VARIABLE
from orchestration.processes.dagster_internals import broken_answers
from orchestration.runs import run_protocol
from orchestration.server.graphql import query
from tests.harness.postgres import Postgres
from tests.harness.processes import ORCHESTRATION, PATIENCE, promised, wait_until
from tests.harness.up_server import (
    LAUNCH,
    RUN_QUERY,
    Server,
    checkout_of,
    copy_project,
    free_port,
    pretend_done,
    selector,
    started,
    write_products,
)

pytestmark = pytest.mark.long

HOST = "127.0.0.1"
DEPLOYMENT = Path("products", "deployment.yml")
DAGSTER = Path(sys.executable).with_name("dagster")


class Hosts:
    """The main host and another, each with its own clone; `gate` is what a build waits for."""

    def __init__(self, folder: Path, url: str, stack: ExitStack) -> None:
        self.env, self._stack = {POSTGRES_VARIABLE: url}, stack
        self.gate, self.begun = folder / "gate", folder / "begun"
        waits = f"touch {self.begun}; until [ -e {self.gate} ]; do sleep 0.1; done"
        self.commands = {
            "here": "echo built here > $BUILD_ENV_OUTPUT_DIR/where",
            "there": f"echo Greetings from afar; {waits}; pwd > $BUILD_ENV_OUTPUT_DIR/where",
        }
        self.port = free_port()
        self.projects = []
        for name in ("main", "other"):
            (folder / name).mkdir()
            project = copy_project(folder / name)
            write_products(project, self.commands)
            for product in self.commands:
                pretend_done(project, product, "load", "main")
            self.projects.append(project)
        self.address = HOST
        self.serve_there(there=self.port)

    def serve_there(self, **ports: int) -> None:
        """Has both hosts' deployment.yml say what the other serves."""
        for project in self.projects:
            file = checkout_of(project) / DEPLOYMENT
            file.write_text(yaml.safe_dump({"hosts": {self.address: ports}}))

    def start_main(self) -> Server:
        return self._stack.enter_context(started(self.projects[0], env=self.env))

    def start_other(self) -> Server:
        other = self._stack.enter_context(
            started(self.projects[1], "--host-name", self.address, env=self.env)
        )
        other.wait_for_output(f"{self.address} serves")
        return other

    def result(self, product: str) -> Path:
        """Where the other host publishes a build."""
        return self.projects[1] / ".lifecycle" / "builds" / product / "main" / "build"


@pytest.fixture
def hosts(cluster: Postgres, tmp_path: Path) -> Iterator[Hosts]:
    cluster.start()
    with ExitStack() as stack:
        yield Hosts(tmp_path, cluster.create_database(tmp_path.name), stack)


LOGS_QUERY = """query($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events {
    ... on LogsCapturedEvent { fileKey } } } } }"""
STDOUT_QUERY = "query($key: [String!]!) { capturedLogs(logKey: $key) { stdout } }"


def stdout_of(main: Server, run: str) -> str:
    """What the UI shows in the tab stdout of the run's step."""
    events = main.query(LOGS_QUERY, id=run)["logsForRun"]["events"]
    [key] = [event["fileKey"] for event in events if event]
    found = main.query(STDOUT_QUERY, key=[run, "compute_logs", key])["capturedLogs"]["stdout"]
    return str(found)


def has_ipv6() -> bool:
    """Whether this machine can listen on an IPv6 address."""
    with suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


def begin(main: Server, hosts: Hosts) -> str:
    """Launches the build that waits for the gate; gives its id once it works."""
    hosts.begun.unlink(missing_ok=True)
    run = main.launch("there", "build", partition="main")
    main.wait_for(hosts.begun.exists)
    return run


def test_runs_execute_on_their_locations_host_and_are_seen_to_their_end(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = hosts.start_main()
    main.wait_for_error("there", f"{HOST}:{hosts.port}, where it is served, cannot be reached")
    main.wait_for_output("Dagster is at")
    other = hosts.start_other()
    main.wait_for_locations("ingest", "here", "there", seconds=promised(10))
    main.wait_for(lambda: "main" in main.partitions("there"))

    run = begin(main, hosts)
    main.cancel(run)
    main.wait_for_run(run, "CANCELED")
    run = begin(main, hosts)
    hosts.gate.touch()
    main.wait_for_run(run)
    assert "Greetings from afar" in main.events(run)
    assert str(hosts.projects[1]) in (hosts.result("there") / "where").read_text()
    assert not (main.state / "builds" / "there" / "main" / "build").exists()
    run = main.launch("here", "build", partition="main")
    main.wait_for_run(run)

    # Given up meanwhile, it ends without a word, and publishes nothing.
    published = (hosts.result("there")).readlink()
    hosts.gate.unlink()
    run = begin(main, hosts)
    monkeypatch.setenv("DAGSTER_HOME", str(hosts.projects[0] / ".dagster"))
    monkeypatch.setenv(POSTGRES_VARIABLE, hosts.env[POSTGRES_VARIABLE])
    with DagsterInstance.get() as instance:
        instance.report_run_failed(instance.get_run_by_id(run))  # type: ignore[arg-type]
    hosts.gate.touch()
    other.wait_for_output(f"run {run}: somebody had ended it meanwhile")
    assert hosts.result("there").readlink() == published
    assert main.run_status(run) == "FAILURE"

    # With its host, it is gone.
    hosts.gate.unlink()
    run = begin(main, hosts)
    for pid in other.processes():
        # Some end with the one before.
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    other = hosts.start_other()
    main.wait_for_locations("ingest", "here", "there", seconds=promised(10))
    main.wait_for_run(run, "FAILURE")
    assert f"{HOST}:{hosts.port} has no process of the run any more" in main.events(run)
    assert other.stop() == 0
    main.wait_for_error("there", "cannot be reached")
    assert main.stop() == 0


def test_both_hosts_follow_what_is_served_where(hosts: Hosts) -> None:
    hosts.address, in_the_workspace = ("::1", "[::1]") if has_ipv6() else (HOST, HOST)
    hosts.serve_there(there=hosts.port)
    # As of a folder of results that both have.
    mine, theirs = (project / ".lifecycle" / "logs" for project in hosts.projects)
    theirs.mkdir()
    mine.symlink_to(theirs)
    other, main = hosts.start_other(), hosts.start_main()
    main.wait_until_up("ingest", "here", "there")
    main.wait_for(lambda: "main" in main.partitions("there"))
    run = begin(main, hosts)
    hosts.gate.touch()
    main.wait_for_run(run)
    assert "Greetings from afar" in main.events(run)
    assert "Greetings from afar" in stdout_of(main, run)
    port = free_port()
    for project in hosts.projects:
        write_products(project, {**hosts.commands, "new": "true"})
    hosts.serve_there(new=port)
    main.wait_for_locations("ingest", "here", "there", "new")
    assert main.awake().keys() == set() and main.wake("there")
    [file] = [p / "workspace.yaml" for p in hosts.projects[:1]]
    entries = yaml.safe_load(file.read_text())["load_from"]
    assert {"location_name": "new", "host": in_the_workspace, "port": port} in [
        entry.get("grpc_server") for entry in entries
    ]
    main.reload("new")
    assert main.locations()["new"] is None
    other.wait_for_output("1 code location: new")


def test_a_host_that_says_nothing_delays_nobody(hosts: Hosts) -> None:
    with socket.socket() as silent:
        silent.bind((HOST, hosts.port))
        silent.listen()
        main = hosts.start_main()
        main.wait_for_error("there", "does not answer")
        main.wait_for(lambda: "main" in main.partitions("here"))
        main.wait_for_run(main.launch("here", "build", partition="main"), seconds=promised(15))
    hosts.start_other()
    main.wait_for_locations("ingest", "here", "there", seconds=promised(10))


def test_a_stock_code_server_on_a_host_is_as_good(hosts: Hosts) -> None:
    project = hosts.projects[1]
    env = {**os.environ, **hosts.env, "DATA_ENGINEERING_ROOT": str(checkout_of(project))}
    env |= {"PYTHONPATH": str(project), "DAGSTER_HOME": "", "DCPY_LIFECYCLE_DATA_DIR": ""}
    subprocess.run([*ORCHESTRATION, "generate"], cwd=project, env=env, check=True)
    where = ["-h", HOST, "-p", str(hosts.port), "-m", "orchestration.locations.there"]
    stock = subprocess.Popen(
        [str(DAGSTER), "code-server", "start", *where, "--location-name", "there"],
        cwd=project,
        env=env,
        start_new_session=True,
    )
    try:
        main = hosts.start_main()
        main.wait_until_up("ingest", "here", "there")
        main.wait_for(lambda: "main" in main.partitions("there"))
        run = begin(main, hosts)
        hosts.gate.touch()
        main.wait_for_run(run)
        assert "Greetings from afar" in main.events(run)
    finally:
        os.killpg(stock.pid, signal.SIGTERM)
        stock.wait(30)


def test_dagsters_own_webserver_and_daemon_work_with_such_a_host(
    hosts: Hosts, tmp_path: Path
) -> None:
    hosts.start_other()
    hosts.gate.touch()
    project, home, port = hosts.projects[0], tmp_path / "stock", free_port()
    home.mkdir()
    address = hosts.env[POSTGRES_VARIABLE].replace("postgresql:", "postgresql+psycopg2:")
    settings = {"storage": {"postgres": {"postgres_url": address}}, "telemetry": {"enabled": False}}
    (home / "dagster.yaml").write_text(yaml.safe_dump(settings))
    env = {**os.environ, "DATA_ENGINEERING_ROOT": str(checkout_of(project))}
    env |= {"PYTHONPATH": str(project), "DAGSTER_HOME": str(home)}
    subprocess.run([*ORCHESTRATION, "generate"], cwd=project, env=env, check=True)
    entries = yaml.safe_load((project / "workspace.yaml").read_text())["load_from"]
    theirs = [entry for entry in entries if "grpc_server" in entry]
    (home / "workspace.yaml").write_text(yaml.safe_dump({"load_from": theirs}))
    stock = [
        subprocess.Popen(
            [str(DAGSTER.with_name(command)), *options, "-w", str(home / "workspace.yaml")],
            cwd=project,
            env=env,
        )
        for command, *options in (("dagster-webserver", "-p", str(port)), ("dagster-daemon", "run"))
    ]
    try:
        url = f"http://{HOST}:{port}"

        def state(run: str) -> str:
            found: str = query(url, RUN_QUERY, {"id": run})["runOrError"]["status"]
            return found

        def launched() -> str | None:
            with suppress(OrchestrationError):
                parameters = {
                    "selector": {
                        **selector("there"),
                        "pipelineName": "__ASSET_JOB",
                        "assetSelection": [{"path": ["there", "build"]}],
                    },
                    "mode": "default",
                    "executionMetadata": {"tags": [{"key": "dagster/partition", "value": "main"}]},
                }
                answer = query(url, LAUNCH, {"parameters": parameters})["launchPipelineExecution"]
                return answer["run"]["runId"] if "run" in answer else None
            return None

        run = ""

        def is_launched() -> bool:
            nonlocal run
            run = launched() or ""
            return bool(run)

        assert wait_until(is_launched, 40)
        assert wait_until(lambda: state(run) == "SUCCESS", 40), state(run)
        assert hosts.result("there").exists()
    finally:
        for process in stock:
            process.terminate()
            process.wait(30)


@pytest.mark.parametrize(
    ("options", "env", "said"),
    [
        (["--host-name", "nobody"], True, "--host-name nobody is no host of deployment.yml"),
        (["--host-name", HOST], False, f"set {POSTGRES_VARIABLE}"),
        ([], False, f"set {POSTGRES_VARIABLE}"),
        (["--host-name", HOST, "--cold"], True, "--cold is for one machine"),
    ],
)
def test_what_cannot_be_served_is_a_sentence(
    hosts: Hosts, options: list[str], env: bool, said: str
) -> None:
    refused = subprocess.run(
        [*ORCHESTRATION, "up", "--port", str(free_port()), *options],
        cwd=hosts.projects[1],
        env={**os.environ, **(hosts.env if env else {})}
        | {"DATA_ENGINEERING_ROOT": str(checkout_of(hosts.projects[1])), "DAGSTER_HOME": ""},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert refused.returncode != 0
    assert said in refused.stdout + refused.stderr


def test_an_address_that_is_not_private_is_warned_of(hosts: Hosts) -> None:
    hosts.address = "8.8.4.4"
    hosts.serve_there(there=hosts.port)
    # The address is its own, and reaches nobody.
    network = ["unshare", "--map-root-user", "--net", "sh", "-c"]
    listens = 'ip link set lo up && ip addr add 8.8.4.4/32 dev lo && exec "$@"'
    if subprocess.run([*network, "ip link set lo up"]).returncode:
        pytest.skip("this machine makes no network namespaces")
    options = ("--host-name", hosts.address)
    within = [*network, listens, "sh"]
    with started(hosts.projects[1], *options, env=hosts.env, within=within) as other:
        other.wait_for_output("8.8.4.4, on which this host listens, is not a private address")


def test_another_release_of_dagster_is_a_sentence_with_both_versions() -> None:
    from dagster import __version__

    reply = broken_answers("")["ListRepositories"]
    assert run_protocol.other_release(reply) is None
    listed = run_protocol._listed(reply)
    listed.serialized_list_repositories_response_or_error = json.dumps(
        {"__class__": "No such class", "dagster_library_versions": {"dagster": "9.9.9"}}
    )
    said = run_protocol.other_release(listed.SerializeToString())
    assert said == f"runs Dagster 9.9.9, and this host {__version__}: install the same on both."

"""A real data-engineering checkout, and on this machine what its dcpy needs around it.

The checkout is the one that DATA_ENGINEERING_ROOT names, its interpreter DCPY_PYTHON. Storage is
moto's S3 in proxy mode, the web is Python's http.server, Postgres a cluster of its own; all of them
listen on 127.0.0.1 only, and end with the tests.
"""

import contextlib
import functools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from orchestration.catalog.checkout import PRODUCTS_FILE, PROJECT_ROOT
from orchestration.lifecycle.environment import problem_with_dcpy
from tests.harness.postgres import postgres_cluster
from tests.harness.processes import wait_until

# As the caller has them: while tests run, the environment is pinned to the sample.
CHECKOUT = os.environ.get("DATA_ENGINEERING_ROOT", "")
PYTHON = Path(os.environ.get("DCPY_PYTHON") or sys.executable).expanduser()
# Settings of the caller's that would lead dcpy to other places than the ones below.
NOT_OURS = re.compile(r"AWS_|GITHUB_|.*_BUCKET$|.*_proxy$", re.IGNORECASE)
ENDPOINT = "https://nyc3.digitaloceanspaces.com"
BUCKETS = {
    "RECIPES_BUCKET": "test-recipes",
    "PUBLISHING_BUCKET": "test-publishing",
    "PRIVATE_BUCKET": "test-private",
}
STARTING_SECONDS = 60.0
ENDING_SECONDS = 20.0

CREATE_BUCKETS = """
import boto3, os, sys
client = boto3.client("s3", endpoint_url=os.environ["AWS_S3_ENDPOINT"])
for bucket in sys.argv[1:]:
    client.create_bucket(Bucket=bucket)
"""
FIND_SPATIAL = """
import duckdb, importlib.util, pathlib
version = f"v{duckdb.__version__}"
[[platform]] = duckdb.sql("PRAGMA platform").fetchall()
spec = importlib.util.find_spec("duckdb_extension_spatial")
packages = spec.submodule_search_locations if spec else []
name = "spatial.duckdb_extension"
places = [pathlib.Path(package, "extensions", version, name) for package in packages]
places.append(pathlib.Path.home() / ".duckdb" / "extensions" / version / platform / name)
found = [str(place) for place in places if place.is_file()]
print(version, platform, *found[:1])
"""


@dataclass(frozen=True)
class RealCheckout:
    """A real checkout, and the interpreter that has its dcpy."""

    root: Path
    python: Path


def run_python(
    python: Path, *arguments: str | Path, cwd: Path, env: Mapping[str, str] = os.environ
) -> str:
    """What the interpreter prints; it has to succeed."""
    done = subprocess.run(
        [python, *arguments], cwd=cwd, env=dict(env), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def real_checkout(tmp_path_factory: pytest.TempPathFactory) -> RealCheckout:
    """The checkout that DATA_ENGINEERING_ROOT names; the test is skipped where that is no real one.

    An interpreter without its dcpy is a failure.
    """
    root = Path(CHECKOUT).expanduser().absolute()
    if not CHECKOUT or not (root / "dcpy" / "utils" / "postgres.py").is_file():
        pytest.skip("DATA_ENGINEERING_ROOT names no checkout of NYC's data-engineering repository")
    lifecycle = tmp_path_factory.mktemp("unused")
    problem = problem_with_dcpy((PYTHON, True), root=root, lifecycle=lifecycle)
    assert problem is None, problem
    return RealCheckout(root, PYTHON)


@pytest.fixture(scope="session")
def farm(real_checkout: RealCheckout, tmp_path_factory: pytest.TempPathFactory) -> RealCheckout:
    """The real checkout by symbolic links, with templates and products that a test can change."""
    root = tmp_path_factory.mktemp("checkout") / "data-engineering"
    ours = ("products", "ingest_templates")
    for folder in (".", *ours):
        (root / folder).mkdir()
        for entry in (real_checkout.root / folder).iterdir():
            if entry.name not in (*ours, PRODUCTS_FILE.name, ".git"):
                (root / folder / entry.name).symlink_to(entry)
    candidates = (real_checkout.root, PROJECT_ROOT.parent / "shared" / "nyc")
    lists = [place / PRODUCTS_FILE for place in candidates if (place / PRODUCTS_FILE).is_file()]
    text = lists[0].read_text() if lists else "products:\n"
    (root / PRODUCTS_FILE).write_text(text)
    return RealCheckout(root, real_checkout.python)


@pytest.fixture(scope="session")
def storage(
    real_checkout: RealCheckout, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """An S3 with two empty buckets: the variables by which dcpy finds it and nothing else."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    moto = shutil.which("moto_proxy", path=path)
    if moto is None:
        pytest.skip("moto_proxy is not on the PATH: pip install 'moto[proxy,s3]'")
    find = "import moto.proxy, moto.moto_proxy as m; print(m.__path__[0])"
    found = subprocess.run(
        [Path(moto).with_name("python"), "-c", find], capture_output=True, text=True
    )
    if found.returncode != 0:
        pytest.skip(f"{moto} cannot run: {found.stderr.splitlines()[-1]}")
    port = free_port()
    variables = {
        "HTTPS_PROXY": f"http://127.0.0.1:{port}",
        "AWS_CA_BUNDLE": f"{found.stdout.strip()}/ca.crt",
        "AWS_S3_ENDPOINT": ENDPOINT,
        "AWS_ACCESS_KEY_ID": "of-the-emulator",
        "AWS_SECRET_ACCESS_KEY": "also-not-to-be-told",
        "AWS_MAX_ATTEMPTS": "1",
        **BUCKETS,
    }
    env = {name: value for name, value in os.environ.items() if not NOT_OURS.match(name)}
    with serving(
        [moto, "-H", "127.0.0.1", "-p", str(port)],
        is_ready=lambda: answers(port),
        log=tmp_path_factory.mktemp("moto") / "log",
        env=env | {"MOTO_S3_CUSTOM_ENDPOINTS": ENDPOINT},
    ):
        run_python(
            real_checkout.python,
            "-c",
            CREATE_BUCKETS,
            *BUCKETS.values(),
            cwd=real_checkout.root,
            env=env | variables,
        )
        yield variables


@pytest.fixture(scope="session")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A web server on this machine: its address, and the folder that it serves."""
    folder = tmp_path_factory.mktemp("www")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", folder
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="session")
def postgres() -> Iterator[dict[str, str]]:
    """A Postgres cluster with one database: the variables by which dcpy finds it."""
    with postgres_cluster() as cluster:
        cluster.create_database("db-own")
        yield {"BUILD_ENGINE_SERVER": cluster.server, "BUILD_ENGINE_DB": "db-own"}


@pytest.fixture(scope="session")
def spatial_home(
    real_checkout: RealCheckout, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """HOME with DuckDB's spatial extension, which dcpy needs and would download each time."""
    version, platform, *found = run_python(
        real_checkout.python, "-c", FIND_SPATIAL, cwd=real_checkout.root
    ).split()
    if not found:
        pytest.skip(
            f"DuckDB {version} has no spatial extension here: install "
            f"duckdb-extension-spatial=={version[1:]} for {real_checkout.python}"
        )
    home = tmp_path_factory.mktemp("home")
    extensions = home / ".duckdb" / "extensions" / version / platform
    extensions.mkdir(parents=True)
    shutil.copy(found[0], extensions)
    return {"HOME": str(home)}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def answers(port: int) -> bool:
    """Whether somebody listens on the port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def serving(
    command: Sequence[str | Path],
    *,
    is_ready: Callable[[], bool],
    log: Path,
    env: Mapping[str, str],
    stop_by: signal.Signals = signal.SIGTERM,
    **how: Any,
) -> Iterator[None]:
    """Runs a server for as long as the block lasts, which begins when the server is ready."""
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=dict(env), stdout=output, stderr=subprocess.STDOUT, **how
        )
        try:
            wait_until(lambda: is_ready() or process.poll() is not None, STARTING_SECONDS)
            assert process.poll() is None and is_ready(), log.read_text()
            yield
        finally:
            process.send_signal(stop_by)
            try:
                process.wait(ENDING_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

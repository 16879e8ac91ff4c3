"""A Postgres cluster of the tests' own, on 127.0.0.1, that can be stopped and started again."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.harness.processes import wait_until

PASSWORD = "not-to-be-told"
USER = "builder"
STARTING_SECONDS = 60.0
ENDING_SECONDS = 20.0


class Postgres:
    """A cluster; `address` is where it listens."""

    def __init__(self, folder: Path, programs: Path, *, address: str) -> None:
        self._folder, self._programs = folder, programs
        self.address, self.port = address, _free_port()
        password = folder / "password"
        password.write_text(PASSWORD)
        self._user = _unprivileged(folder, password)
        options = ["-U", USER, "--no-sync", f"--pwfile={password}", "-A", "scram-sha-256"]
        subprocess.run(
            [programs / "initdb", "-D", folder / "data", *options, "-E", "UTF8"],
            cwd=folder,
            check=True,
            capture_output=True,
            **self._user,
        )
        with (folder / "data" / "pg_hba.conf").open("a") as file:
            file.write("host all all samenet scram-sha-256\n")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def server(self) -> str:
        """Its address, without a database."""
        return f"postgresql://{USER}:{PASSWORD}@{self.address}:{self.port}"

    def start(self) -> None:
        """Starts it where it does not run, and waits until it answers."""
        if self._process:
            return
        settings = [f"listen_addresses={self.address}", f"unix_socket_directories={self._folder}"]
        settings += ["fsync=off", "max_connections=300"]
        command = [str(self._programs / "postgres"), "-D", f"{self._folder}/data"]
        command += ["-p", str(self.port), *(part for s in settings for part in ("-c", s))]
        log = self._folder / "log"
        with log.open("a") as output:
            process = self._process = subprocess.Popen(
                command, cwd=self._folder, stdout=output, stderr=output, **self._user
            )
        ready: list[str | Path] = [
            self._programs / "pg_isready",
            "-q",
            "-h",
            self._folder,
            "-p",
            str(self.port),
        ]

        def is_ready() -> bool:
            return subprocess.run(ready).returncode == 0 or process.poll() is not None

        assert wait_until(is_ready, STARTING_SECONDS) and process.poll() is None, log.read_text()

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Stops it at once, whoever is connected."""
        if self._process:
            self._process.send_signal(number)
            try:
                self._process.wait(ENDING_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def create_database(self, name: str) -> str:
        """Makes a database, and gives its URL."""
        address: list[str | Path] = ["-h", self._folder, "-p", str(self.port), "-U", USER]
        env = {**os.environ, "PGPASSWORD": PASSWORD}
        subprocess.run([self._programs / "createdb", *address, name], env=env, check=True)
        return f"{self.server}/{name}"

    def query(self, database: str, text: str) -> list[str]:
        """The rows that the database answers with."""
        address: list[str | Path] = [
            "-h",
            self._folder,
            "-p",
            str(self.port),
            "-U",
            USER,
            "-d",
            database,
        ]
        found: str = subprocess.run(
            [self._programs / "psql", *address, "-Atc", text],
            env={**os.environ, "PGPASSWORD": PASSWORD},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        return found.splitlines()


@contextmanager
def postgres_cluster(address: str = "127.0.0.1") -> Iterator[Postgres]:
    """A running cluster, which ends with the block.

    Skips the test where Postgres is not installed.
    """
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: p.parent.name)
    path = os.pathsep.join([os.environ["PATH"], *map(str, reversed(installed))])
    initdb = shutil.which("initdb", path=path)
    if initdb is None:
        pytest.skip("Postgres is not installed: no initdb")
    with tempfile.TemporaryDirectory(prefix="postgres-") as name:
        programs = Path(initdb).resolve().parent
        cluster = Postgres(Path(name), programs, address=address)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _unprivileged(*paths: Path) -> dict[str, Any]:
    """How to start a process that must not run as root, with the paths made its own."""
    if os.geteuid() != 0:
        return {}
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    user = known.get("postgres") or known["nobody"]
    for path in paths:
        os.chown(path, user.pw_uid, user.pw_gid)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}

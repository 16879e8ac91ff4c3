"""`up`, as the user starts it: the process that holds the supervisor, and ends with it.

It only holds a pipe: when it ends, however it does, the reaper at the other end leaves nothing of
the supervisor and all that it started. It never imports Dagster, since it is there all the while.
"""

import errno
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from orchestration import OrchestrationError
from orchestration.catalog.checkout import PROJECT_ROOT, checkout_root, products_file
from orchestration.lifecycle import reaper

GRACE_SECONDS = 20.0
"""What the supervisor has for ending everything."""


def up(
    *,
    host: str,
    port: int,
    path_prefix: str,
    warm: bool,
    watches: bool,
    only: Sequence[str],
    owners: Sequence[str],
    deployment: Path | None,
    host_name: str | None,
) -> int:
    """Serves until it is told to stop; gives the exit code.

    `path_prefix` is the path below which a proxy serves it; `only` and `owners` narrow down which
    locations; `deployment` is the file that says which host serves what. With a `host_name`, what
    that says of this host is served to the others, without Dagster itself. Raises
    OrchestrationError when a port is taken, or a host has no address.
    """
    file = products_file(checkout_root())
    if host_name:
        check_addresses(host_name, deployment, file)
    else:
        _check_port(host, port, "another --port or --host (make up PORT=… HOST=…)")
        if not _ip(host).is_loopback:
            print(
                f"warning: {host} can be reached from elsewhere, and Dagster has no authentication",
                flush=True,
            )
    settings = {
        "host": host,
        "port": port,
        "path_prefix": path_prefix,
        "warm": warm and hasattr(os, "fork"),
        "watches": watches,
        "only": only,
        "owners": owners,
        "started": time.time(),
        "deployment": str(deployment) if deployment else None,
        "host_name": host_name,
    }
    process = subprocess.Popen(
        [
            *(sys.executable, "-I", "-S", reaper.__file__, str(GRACE_SECONDS)),
            *(sys.executable, "-m", "orchestration.server", json.dumps(settings)),
        ],
        cwd=PROJECT_ROOT,
        env={**os.environ, "PYTHONIOENCODING": getattr(sys.stdout, "encoding", None) or "utf-8"},
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin
    interrupted = False

    def stop(*_: object) -> None:
        nonlocal interrupted
        interrupted = True
        assert process.stdin
        process.stdin.close()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
    status = process.wait()
    return 0 if interrupted else status if status > 0 else 1


def check_addresses(host_name: str, deployment: Path | None, file: Path) -> None:
    """Warns where a host that serves others can be reached by anybody.

    Raises OrchestrationError where it has no such address, a port is taken, or it is not named.
    """
    # What takes memory stays out of the process of an `up` that does not need it.
    from orchestration.catalog.deployment import read_deployment
    from orchestration.catalog.products import read_products

    products = read_products(file)
    for address in read_deployment(checkout_root(), deployment, products).on(host_name).values():
        ip = _ip(address.host)
        _check_port(address.host, address.port, "another port in deployment.yml")
    if not ip.is_private:
        print(
            f"warning: {ip}, on which this host listens, is not a private address: whoever reaches "
            "its ports can run code here, since Dagster has no authentication",
            flush=True,
        )


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise OrchestrationError(
            f"The host {host} has no address ({error.strerror}). Give it one in DNS or /etc/hosts, "
            "or name it by its address."
        ) from error
    return ipaddress.ip_address(found[0][4][0])


def _check_port(host: str, port: int, choice: str) -> None:
    ip = _ip(host)
    with socket.socket(socket.AF_INET6 if ip.version == 6 else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            if not 0 < port < 65_536:
                raise OSError(errno.EINVAL, "a port is a number from 1 to 65535")
            probe.bind((str(ip), port))
        except OSError as error:
            raise OrchestrationError(
                f"Cannot listen on {host}:{port}: {error.strerror or error}. Choose {choice}."
            ) from error

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

from orchestration import OrchestrationError
from orchestration.catalog.checkout import PROJECT_ROOT
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
) -> int:
    """Serves until it is told to stop; gives the exit code.

    `path_prefix` is the path below which a proxy serves it; `only` and `owners` narrow down which
    locations. Raises OrchestrationError when the port is
    taken.
    """
    _check_port(host, port)
    if not ipaddress.ip_address(socket.gethostbyname(host)).is_loopback:
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
    }
    process = subprocess.Popen(
        [
            *(sys.executable, "-I", "-S", reaper.__file__, str(GRACE_SECONDS)),
            *(sys.executable, "-m", "orchestration.server.supervisor", json.dumps(settings)),
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


def _check_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            if not 0 < port < 65_536:
                raise OSError(errno.EINVAL, "a port is a number from 1 to 65535")
            probe.bind((host, port))
        except OSError as error:
            raise OrchestrationError(
                f"Cannot listen on {host}:{port}: {error.strerror or error}. Choose another --port "
                "or --host (make up PORT=… HOST=…)."
            ) from error

"""Three hosts on one machine: network namespaces, joined by a bridge that is in one of its own.

Nothing in them reaches any other address. What runs in one of them listens and asks as on a machine
of its own; processes and files are the machine's.
"""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

NETWORK = "10.213.77"
BRIDGE = "orc-bridge"


class Host:
    """A network namespace with one address."""

    def __init__(self, name: str, number: int) -> None:
        self.name, self.address = name, f"{NETWORK}.{number}"
        self._cable = f"veth{number}"

    @property
    def within(self) -> list[str]:
        """What a command begins with that is to run on the host."""
        return ["ip", "netns", "exec", self.name]

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This thread, and what it starts, is on the host as long as the block lasts."""
        with open("/proc/thread-self/ns/net") as before, open(f"/run/netns/{self.name}") as host:
            _enter(host.fileno())
            try:
                yield
            finally:
                _enter(before.fileno())

    def start(self) -> None:
        """Makes it, and joins it to the others."""
        _ip("netns", "add", self.name)
        _ip("-n", BRIDGE, "link", "add", self._cable, "type", "veth", "peer", "name", "eth0")
        _ip("-n", BRIDGE, "link", "set", "eth0", "netns", self.name)
        _ip("-n", BRIDGE, "link", "set", self._cable, "master", "br0", "up")
        for command in (
            ("addr", "add", f"{self.address}/24", "dev", "eth0"),
            ("link", "set", "lo", "up"),
            ("link", "set", "eth0", "up"),
        ):
            _ip("-n", self.name, *command)

    def cut_off(self) -> None:
        """Lets nothing through to it and from it any more, without anybody being told."""
        _ip("-n", BRIDGE, "link", "set", self._cable, "nomaster")

    def join(self) -> None:
        """Lets everything through again."""
        _ip("-n", BRIDGE, "link", "set", self._cable, "master", "br0")

    def stop(self) -> None:
        """Takes it away."""
        _ip("netns", "delete", self.name)


@contextmanager
def three_hosts() -> Iterator[list[Host]]:
    """Three hosts; skips the test where this machine has no namespaces for it."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("network namespaces need root and the command `ip`")
    try:
        _ip("netns", "add", BRIDGE)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this machine makes no network namespaces: {error.stderr}")
    made: list[Host] = []
    try:
        _ip("-n", BRIDGE, "link", "add", "br0", "type", "bridge")
        _ip("-n", BRIDGE, "link", "set", "br0", "up")
        for number in (1, 2, 3):
            made.append(Host(f"orc-host{number}", number))
            made[-1].start()
        yield made
    finally:
        for host in made:
            host.stop()
        _ip("netns", "delete", BRIDGE)


def _enter(namespace: int) -> None:
    # Python has it from 3.12 on.
    if ctypes.CDLL(None, use_errno=True).setns(namespace, 0):
        raise OSError(ctypes.get_errno(), "setns")


def _ip(*arguments: str) -> None:
    command: Sequence[str] = ["ip", *arguments]
    subprocess.run(command, check=True, capture_output=True, text=True)

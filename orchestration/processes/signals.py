"""Signals to the supervisor: those that tell it to stop, and the end of a child."""

import os
import selectors
import signal


class Signals:
    """Takes them, and wakes whoever waits on the selector."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self.has_stopped = False
        """Whether it is time to end."""
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_read, False)
        os.set_blocking(wake_write, False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        selector.register(wake_read, selectors.EVENT_READ, lambda: os.read(wake_read, 4096))
        self._parent = os.getppid()

    def _stop(self, *_: object) -> None:
        self.has_stopped = True

    def watch(self) -> None:
        """Stops where the process that started this one has ended."""
        if os.getppid() != self._parent:
            self.has_stopped = True

"""What only time brings to light."""

import signal


def end_when_told() -> None:
    """Has SIGTERM end this process as Ctrl-C does, with all that it has started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)

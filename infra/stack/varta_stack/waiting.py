"""Waiting for a condition with a deadline, and for nothing else."""

import time
from typing import Callable

POLL_SECONDS = 0.05


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Ask `condition` until it holds; False when the deadline has passed first."""
    deadline = time.monotonic() + seconds
    while True:
        if condition():
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)

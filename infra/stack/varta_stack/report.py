"""Lines for the person who waits, printed whole although servers start in parallel."""

import contextlib
import sys
import threading
import time
from typing import Iterator

_turn = threading.Lock()


def line(subject: str, what: str, seconds: "float | None" = None) -> None:
    """One fact: `kafka 4.1.1        fetched                     14.8 s`."""
    text = f"{subject:<22} {what}"
    if seconds is not None:
        text = f"{text:<76} {seconds:7.1f} s"
    with _turn, contextlib.suppress(BrokenPipeError):  # a reader that left must not stop a start
        print(text, flush=True)


def complaint(text: str) -> None:
    with _turn:
        print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def timed(subject: str, what: str) -> Iterator[None]:
    """Print the fact and its duration once the block is done; nothing if it fails."""
    started = time.monotonic()
    yield
    line(subject, what, time.monotonic() - started)

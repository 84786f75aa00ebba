"""Advisory file locks between invocations; the kernel releases them when a process dies."""

import contextlib
import fcntl
from pathlib import Path
from typing import Callable, Iterator, Optional


@contextlib.contextmanager
def exclusive(path: Path, on_wait: Optional[Callable[[], None]] = None) -> Iterator[None]:
    """Hold `path` alone; `on_wait` is told when somebody else holds it already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if on_wait:
                on_wait()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield

"""Downloads and builds that are made once: an artefact is complete, or it is not there."""

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import Callable

from . import report
from .locks import exclusive
from .places import cache_root


def artefact(name: str, version: str, verb: str, make: Callable[[Path], None]) -> Path:
    """The folder `NAME-VERSION` of the cache, made by `make` in a folder beside it if need be.

    The finished folder appears by a rename, so that neither a crash nor a rival
    can show a half of it; rivals wait for whoever began.
    """
    home = cache_root() / f"{name}-{version}"
    if home.is_dir():
        return home
    subject = f"{name} {version}"
    lock = cache_root() / "locks" / f"{name}-{version}.lock"
    with exclusive(lock, on_wait=lambda: report.line(subject, "waiting for another stack that is fetching it")):
        if home.is_dir():
            return home
        _sweep(name, version)
        workshop = Path(tempfile.mkdtemp(dir=cache_root(), prefix=f".making-{name}-{version}-"))
        try:
            with report.timed(subject, verb):
                make(workshop)
                workshop.chmod(0o755)
                workshop.rename(home)
        finally:
            shutil.rmtree(workshop, ignore_errors=True)
    return home


def _sweep(name: str, version: str) -> None:
    """Remove what a killed predecessor left; the lock says that nobody is at work there."""
    for left in cache_root().glob(f".making-{name}-{version}-*"):
        with contextlib.suppress(OSError):
            shutil.rmtree(left, ignore_errors=True)

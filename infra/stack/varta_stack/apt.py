"""Debian packages: only those that dpkg does not have, and no service started by them."""

import contextlib
import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Iterator, List, Sequence

from . import report, tools
from .errors import StackError
from .locks import exclusive
from .places import cache_root

POLICY = Path("/usr/sbin/policy-rc.d")
_updated = threading.Event()


def missing(packages: Sequence[str]) -> List[str]:
    return [package for package in packages if not _is_installed(package)]


def install(packages: Sequence[str]) -> None:
    """Make sure that all packages are installed; asks apt only for what is missing."""
    wanted = missing(packages)
    if not wanted:
        return
    prefix = _privilege(wanted)
    with exclusive(cache_root() / "locks" / "apt.lock"), _no_services(prefix):
        wanted = missing(wanted)
        if not wanted:
            return
        if not _updated.is_set():
            with report.timed("apt", "package lists updated"):
                tools.run([*prefix, "apt-get", "-q", "update"])
            _updated.set()
        with report.timed("apt", f"installed {' '.join(wanted)}"):
            tools.run(
                [
                    *prefix,
                    "env",
                    "DEBIAN_FRONTEND=noninteractive",
                    "apt-get",
                    "-q",
                    "-y",
                    "-o",
                    "DPkg::Lock::Timeout=300",
                    "--no-install-recommends",
                    "install",
                    *wanted,
                ]
            )


def _is_installed(package: str) -> bool:
    done = subprocess.run(
        ["dpkg-query", "-W", "-f", "${db:Status-Status}", package], capture_output=True, text=True, check=False
    )
    return done.returncode == 0 and done.stdout == "installed"


def _privilege(wanted: Sequence[str]) -> List[str]:
    if not shutil.which("apt-get"):
        raise StackError(f"this system has no apt; install the equivalents of: {' '.join(wanted)}")
    if os.geteuid() == 0:
        return []
    sudo = ["sudo", "-n"]
    if shutil.which("sudo") and subprocess.run([*sudo, "true"], capture_output=True, check=False).returncode == 0:
        return sudo
    raise StackError(f"not root, and no sudo without a password. Install by hand: apt-get install {' '.join(wanted)}")


@contextlib.contextmanager
def _no_services(prefix: List[str]) -> Iterator[None]:
    """A package's own service would take the port and the memory of an instance nobody asked for.

    A policy that is already there is the administrator's and stays.
    """
    if POLICY.exists():
        yield
        return
    tools.run([*prefix, "sh", "-c", f"printf '#!/bin/sh\\nexit 101\\n' > {POLICY} && chmod 755 {POLICY}"])
    try:
        yield
    finally:
        tools.run([*prefix, "rm", "-f", str(POLICY)])

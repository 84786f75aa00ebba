"""A virtual environment with the pinned packages of `python-requirements.txt`, made once into the cache."""

import hashlib
import sys
from pathlib import Path

from . import cache, tools
from .places import INFRA, cache_root

REQUIREMENTS = INFRA / "stack" / "python-requirements.txt"
NAME = "python"


def version() -> str:
    """Of the packages and of the interpreter that they were installed for."""
    said = REQUIREMENTS.read_bytes() + sys.version.encode()
    return hashlib.sha256(said).hexdigest()[:12]


def interpreter() -> Path:
    """Where it is, whether it was made already or not."""
    return cache_root() / f"{NAME}-{version()}" / "venv" / "bin" / "python"


def ensure() -> Path:
    """The interpreter; its packages are there."""
    cache.artefact(NAME, version(), "installed", _make)
    return interpreter()


def _make(target: Path) -> None:
    """Scripts in a virtual environment name its folder, and the artefact is renamed: only `python -m` is used."""
    venv = target / "venv"
    tools.run([sys.executable, "-m", "venv", str(venv)])
    pip = [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    tools.run([*pip, "install", "--only-binary", ":all:", "--requirement", str(REQUIREMENTS)])

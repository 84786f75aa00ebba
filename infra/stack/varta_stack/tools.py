"""Running other programs, and saying plainly which of them are missing."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from .errors import StackError

LAST_LINES = 20


def require(program: str, what_for: str, advice: str) -> str:
    """The program's path; where to get it when it is not there."""
    found = shutil.which(program)
    if not found:
        raise StackError(f"{program} is needed {what_for}. {advice}")
    return found


def run(
    command: Sequence[str],
    folder: Optional[Path] = None,
    environment: Optional[Dict[str, Optional[str]]] = None,
    stdin: str = "",
) -> str:
    """Run to the end and return what it said; a failure shows its last lines.

    A variable that is None is removed from the inherited environment.
    """
    merged: Dict[str, str] = dict(os.environ)
    for key, value in (environment or {}).items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = value
    done = subprocess.run(
        list(command),
        cwd=folder,
        env=merged,
        input=stdin,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode != 0:
        said = "\n".join(done.stdout.splitlines()[-LAST_LINES:])
        raise StackError(f"failed with {done.returncode}: {' '.join(command)}\n{said}")
    return done.stdout


def gently(command: List[str]) -> List[str]:
    """At low priority: a long build must not starve the servers that already run."""
    return [shutil.which("nice") or "nice", "-n", "10", *command]

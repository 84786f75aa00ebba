"""The rest of an `up --wait`: a detached process that goes on while its caller works."""

import signal
import subprocess
import sys
from typing import List

from . import files, processes, report
from .places import LAUNCHER, StackFolder
from .servers.server import Server


def go_on(folder: StackFolder, servers: List[Server]) -> None:
    """Install and start `servers` in a process group of its own, which logs to DIR/stack.log."""
    names = [server.name for server in servers]
    report.line("stack", f"in the background: {', '.join(names)}; see {folder.background_log}")
    command = [sys.executable, str(LAUNCHER), "up", "--dir", str(folder.root), *names]
    with open(folder.background_log, "wb") as out:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, **processes.own_group()
        )
    process = processes.of_pid(child.pid)
    if process:
        files.write(folder.background_pid, processes.render(process))


def stop(folder: StackFolder) -> None:
    """End it with all that it runs (a build has many children); servers have groups of their own."""
    process = processes.running(folder.background_pid)
    if process:
        process.send_group(signal.SIGTERM)
        report.line("stack", "ended the background start")
    folder.background_pid.unlink(missing_ok=True)

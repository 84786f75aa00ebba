"""Starting processes that outlive us, and stopping only those that we started.

A pid alone proves nothing: after a crash or a reboot the kernel gives it to
somebody else. The pid file therefore also keeps the process's start time and
the boot's id; only a process that matches all three is ever signalled.
"""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional

from . import files, waiting


@dataclass(frozen=True)
class Launch:
    """A command that becomes the server itself (it does not fork and leave)."""

    command: List[str]
    environment: Dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Process:
    """One process of one boot."""

    pid: int
    start_ticks: int
    boot_id: str

    def is_alive(self) -> bool:
        return self.boot_id == boot_id() and start_ticks(self.pid) == self.start_ticks

    def send(self, signal_number: int) -> None:
        if self.is_alive():
            try:
                os.kill(self.pid, signal_number)
            except ProcessLookupError:
                pass

    def send_group(self, signal_number: int) -> None:
        """To the whole group that this process leads."""
        if self.is_alive():
            try:
                os.killpg(self.pid, signal_number)
            except ProcessLookupError:
                pass

    def children(self) -> List["Process"]:
        """Direct children, named while their parent still lives."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and _stat(int(entry.name))[1:2] == [str(self.pid)]:
                ticks = start_ticks(int(entry.name))
                if ticks is not None:
                    found.append(Process(int(entry.name), ticks, self.boot_id))
        return found

    def resident_mib(self) -> Optional[float]:
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return None
        for row in status.splitlines():
            if row.startswith("VmRSS:"):
                return int(row.split()[1]) / 1024
        return None


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_ticks(pid: int) -> Optional[int]:
    """When the process started, in ticks since boot; None if it is gone or a zombie."""
    fields = _stat(pid)
    return None if not fields or fields[0] in ("Z", "X") else int(fields[19])


def _stat(pid: int) -> List[str]:
    """The fields of /proc/PID/stat after the name, which may itself hold spaces and brackets."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()


def of_pid(pid: int) -> Optional[Process]:
    ticks = start_ticks(pid)
    return None if ticks is None else Process(pid, ticks, boot_id())


def working_in(folder: Path) -> List[int]:
    """Living processes whose working directory is `folder` (a zombie has none)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.readlink(entry / "cwd") == str(folder.resolve()):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def render(process: Process) -> str:
    """The pid file: the pid alone on the first line, its proof of identity on the second."""
    return f"{process.pid}\nstart_ticks={process.start_ticks} boot_id={process.boot_id}\n"


def parse(text: str) -> Optional[Process]:
    lines = text.splitlines()
    if len(lines) < 2 or not lines[0].strip().isdigit():
        return None
    proof = dict(part.partition("=")[::2] for part in lines[1].split())
    if not proof.get("start_ticks", "").isdigit() or not proof.get("boot_id"):
        return None
    return Process(int(lines[0]), int(proof["start_ticks"]), proof["boot_id"])


def recorded(pid_file: Path) -> Optional[Process]:
    """The process of a pid file, dead or alive."""
    try:
        return parse(pid_file.read_text())
    except FileNotFoundError:
        return None


def running(pid_file: Path) -> Optional[Process]:
    """The process of a pid file if it is still that process."""
    process = recorded(pid_file)
    return process if process and process.is_alive() else None


def own_group() -> Dict[str, Any]:
    """What makes `subprocess.Popen` start the leader of a process group."""
    return {"process_group": 0} if sys.version_info >= (3, 11) else {"preexec_fn": os.setpgrp}


def spawn(launch: Launch, folder: Path, log: Path, pid_file: Path) -> "subprocess.Popen[bytes]":
    """Start in a process group of its own: a Ctrl-C in our terminal is not for the server.

    Not in a session of its own: Linux shares the processors out between sessions first, and a broker alone in one was
    left without any for seconds while its clients worked.
    """
    with open(log, "ab") as out:
        child = subprocess.Popen(
            launch.command,
            cwd=folder,
            env={**os.environ, **launch.environment},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            **own_group(),
        )
    process = of_pid(child.pid)
    if process:
        files.write(pid_file, render(process))
    return child


def stop(process: Process, stop_signal: int, deadline_seconds: float) -> bool:
    """Ask, wait, then kill. True if asking was enough."""
    process.send(stop_signal)
    if waiting.until(lambda: not process.is_alive(), deadline_seconds):
        return True
    kill(process)
    return False


def kill(process: Process) -> None:
    """SIGKILL to the process and its children at once, as a power cut would end them."""
    family = [process, *process.children()]
    for member in family:
        member.send(signal.SIGKILL)
    waiting.until(lambda: not any(member.is_alive() for member in family), 10)

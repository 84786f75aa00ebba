"""The commands: what each one does, in terms of servers and their lives."""

import shutil
from typing import List, Optional, Sequence

from . import apt, background, environment, lifecycle, plan, processes, report, together
from .errors import StackError
from .locks import exclusive
from .places import StackFolder
from .servers import ALL, named, with_needs
from .servers.server import Server

BUILD_DEPS = "build-deps"
# What the workspace's own crates link to or are built with.
BUILD_PACKAGES = (
    "build-essential",
    "cmake",
    "pkg-config",
    "libssl-dev",
    "zlib1g-dev",
    "libx11-dev",
    "libxtst-dev",
    "libxi-dev",
)


def install(names: Sequence[str]) -> None:
    chosen = [name for name in names if name != BUILD_DEPS]
    failed: List[str] = []
    if BUILD_DEPS in names:
        with report.timed(BUILD_DEPS, "installed"):
            apt.install(BUILD_PACKAGES)
    if chosen or BUILD_DEPS not in names:
        failed = together.each(named(chosen), _install)
    _fail_if(failed, "not installed")


def _install(server: Server) -> None:
    with report.timed(lifecycle.subject(server), "installed"):
        server.install()


def up(folder: StackFolder, names: Sequence[str], ports: Optional[str], wait_for: Optional[Sequence[str]]) -> None:
    chosen = with_needs(named(names))
    now = chosen if wait_for is None else with_needs(named(wait_for))
    agreed = plan.settle(folder, ports, bool(lifecycle.anything_runs(folder)))
    environment.publish(agreed)
    later = [server for server in chosen if server not in now]
    if later:
        background.go_on(folder, later)

    def bring_up(server: Server) -> None:
        server.install()
        lifecycle.start(server, agreed)

    failed = together.each(now, bring_up)
    _fail_if(failed, "not ready")
    report.line("stack", f"addresses and secrets are in {folder.env}")


def down(folder: StackFolder, names: Sequence[str]) -> None:
    if not folder.root.is_dir():
        return
    if not names:
        background.stop(folder)
    failed: List[str] = []
    for layer in together.layers_for_stopping(named(names)):
        present = [server for server in layer if folder.pid(server.name).exists()]
        failed += together.each(present, lambda server: lifecycle.stop(server, folder))
    _fail_if(failed, "not stopped")


def start(folder: StackFolder, name: str) -> None:
    agreed = plan.existing(folder)
    (server,) = named([name])
    server.install()
    lifecycle.start(server, agreed)


def restart(folder: StackFolder, name: str) -> None:
    agreed = plan.existing(folder)
    (server,) = named([name])
    lifecycle.stop(server, folder)
    lifecycle.start(server, agreed)


def kill(folder: StackFolder, name: str) -> None:
    (server,) = named([name])
    lifecycle.crash(server, folder)


def status(folder: StackFolder) -> int:
    """0 when every server runs and answers, 3 otherwise (as init scripts have it)."""
    agreed = plan.existing(folder)
    all_well = True
    for server in ALL.values():
        state, process = _state(server, agreed)
        all_well = all_well and state == "ready"
        row = f"{state:<12}"
        if process:
            row += f" pid {process.pid:<8} {process.resident_mib() or 0:7.0f} MiB  {server.address(agreed)}"
        report.line(lifecycle.subject(server), row)
    if processes.running(folder.background_pid):
        report.line("stack", f"a background start is at work; see {folder.background_log}")
    return 0 if all_well else 3


def _state(server: Server, agreed: plan.Plan) -> "tuple[str, processes.Process | None]":
    pid_file = agreed.folder.pid(server.name)
    process = processes.running(pid_file)
    if process:
        return ("ready" if server.is_ready(agreed) else "not ready"), process
    return ("dead" if pid_file.exists() else "stopped"), None


def wipe(folder: StackFolder) -> None:
    """Remove what a stack made in DIR, and DIR itself if nothing else is in it."""
    if not folder.root.is_dir():
        return
    with exclusive(folder.plan_lock):
        alive = lifecycle.anything_runs(folder)
        if processes.running(folder.background_pid):
            alive.append("the background start")
        if alive:
            raise StackError(f"{', '.join(alive)} still runs; first: stack down --dir {folder.root}")
        for name in ALL:
            shutil.rmtree(folder.server(name), ignore_errors=True)
        decided = (folder.env, folder.json, folder.credentials, folder.ports)
        for path in (*decided, folder.background_log, folder.background_pid):
            path.unlink(missing_ok=True)
        folder.plan_lock.unlink(missing_ok=True)
    if not any(folder.root.iterdir()):
        folder.root.rmdir()


def _fail_if(failed: List[str], what: str) -> None:
    if failed:
        raise StackError(f"{what}: {', '.join(failed)}")

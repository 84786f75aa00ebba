"""One server's life: start and wait until it answers, stop, crash."""

import subprocess
import time
from typing import List

from . import files, ports, processes, report, waiting
from .errors import StackError
from .locks import exclusive
from .places import StackFolder
from .plan import Plan
from .servers import ALL
from .servers.server import Server

LAST_LINES = 20
KEPT_LOG_BYTES = 32 * 1024 * 1024


def subject(server: Server) -> str:
    return f"{server.name} {server.version}"


def start(server: Server, plan: Plan) -> None:
    """Start unless it runs, and return when it answers; a failure shows the log's end."""
    started = time.monotonic()
    folder = plan.folder
    with exclusive(folder.lock(server.name)):
        already = processes.running(folder.pid(server.name))
        if already:
            _await_ready(server, plan, already, None)
            server.first_steps(plan)
            report.line(subject(server), f"runs already  {server.address(plan)}")
            return
        _await_needs(server, plan)
        _refuse_taken_ports(server, plan)
        launch = server.prepare(plan)
        _turn_log(plan.folder, server)
        child = processes.spawn(launch, folder.server(server.name), folder.log(server.name), folder.pid(server.name))
        process = processes.of_pid(child.pid)
        if process is None:
            raise StackError(_explain(server, folder, "ended at once"))
        _await_ready(server, plan, process, child)
        server.first_steps(plan)
    report.line(subject(server), f"ready  {server.address(plan)}", time.monotonic() - started)


def stop(server: Server, folder: StackFolder) -> None:
    """Stop what we started; nothing happens to a stranger that has got the pid since."""
    with exclusive(folder.lock(server.name)):
        process = processes.running(folder.pid(server.name))
        if process:
            server.last_steps(process)
            began = time.monotonic()
            asked = processes.stop(process, server.stop_signal, server.stop_seconds)
            how = "stopped" if asked else f"killed: it did not stop within {server.stop_seconds:.0f} s"
            report.line(subject(server), how, time.monotonic() - began)
        folder.pid(server.name).unlink(missing_ok=True)


def crash(server: Server, folder: StackFolder) -> None:
    """SIGKILL. The pid file stays, as after a real crash."""
    process = processes.running(folder.pid(server.name))
    if process is None:
        raise StackError(f"{server.name} does not run in {folder.root}")
    processes.kill(process)
    report.line(subject(server), f"killed (pid {process.pid})")


def anything_runs(folder: StackFolder) -> List[str]:
    return [name for name in ALL if processes.running(folder.pid(name))]


def _await_needs(server: Server, plan: Plan) -> None:
    """Another thread, or another invocation, starts what this one stands on."""
    for name in server.needs:
        needed = ALL[name]
        if not waiting.until(lambda: needed.is_ready(plan), needed.ready_seconds):
            repair = f"stack start --dir {plan.folder.root} {name}"
            raise StackError(f"{server.name} needs {name}, which is not ready; {repair}")


def _refuse_taken_ports(server: Server, plan: Plan) -> None:
    for listener in server.listeners:
        port = plan.ports[listener]
        if not ports.is_free(port):
            raise StackError(
                f"{server.name}: port {port} ({listener}) is taken by a process that is not ours. "
                f"Stop that one, or after `stack down` remove {plan.folder.ports} and use --ports auto."
            )


def _await_ready(
    server: Server, plan: Plan, process: processes.Process, child: "subprocess.Popen[bytes] | None"
) -> None:
    """Ready, dead or late, whichever comes first. Polling the child also reaps it."""
    died = False

    def settled() -> bool:
        nonlocal died
        died = (child is not None and child.poll() is not None) or not process.is_alive()
        return died or server.is_ready(plan)

    if not waiting.until(settled, server.ready_seconds):
        raise StackError(_explain(server, plan.folder, f"is not ready after {server.ready_seconds:.0f} s"))
    if died:
        raise StackError(_explain(server, plan.folder, "ended before it was ready"))


def _explain(server: Server, folder: StackFolder, what: str) -> str:
    log = folder.log(server.name)
    indented = "\n".join(f"    {row}" for row in files.tail(log, LAST_LINES).splitlines())
    return (
        f"{server.name} {what}. The end of {log}:\n{indented}\n"
        f"Repair the cause, then: stack start --dir {folder.root} {server.name}. "
        f"To begin anew without its data: stack down and stack wipe --dir {folder.root}."
    )


def _turn_log(folder: StackFolder, server: Server) -> None:
    """A log that has grown large is set aside at a start; one predecessor is kept."""
    log = folder.log(server.name)
    if log.exists() and log.stat().st_size > KEPT_LOG_BYTES:
        log.replace(log.with_name("log.1"))

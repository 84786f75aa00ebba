"""PostgreSQL from Debian: our own cluster in the stack's folder, never an existing one.

The server refuses to run as root. Root therefore hands it to an unprivileged
user, with the one capability to pass folders that only root may enter (a test's
temporary folder is such); it can still write nothing but its own data.
"""

import os
import pwd
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import List

from .. import apt, files, processes, tools, waiting
from ..errors import StackError
from ..plan import Plan
from ..processes import Launch
from .server import Server

LONGEST_SOCKET_FOLDER = 80
# A killed server's children notice at once and leave.
ORPHANS_SECONDS = 10
UNPRIVILEGED = ("postgres", "nobody")

_SETTINGS = """\
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = '{sockets}'
max_connections = 100
shared_buffers = 64MB
timezone = 'UTC'
log_timezone = 'UTC'
log_destination = 'stderr'
logging_collector = off
"""


class Postgres(Server):
    name = "postgres"
    version = "15"
    listeners = ("postgres",)
    # SIGTERM would wait for all clients to leave; SIGINT sends them away and shuts down cleanly.
    stop_signal = signal.SIGINT
    ready_seconds = 60

    def install(self) -> None:
        if not _binaries():
            apt.install(["postgresql"])
            if not _binaries():
                raise StackError("the package postgresql left no /usr/lib/postgresql/*/bin/postgres")

    def prepare(self, plan: Plan) -> Launch:
        folder = plan.folder.server(self.name)
        data = folder / "data"
        if not (data / "PG_VERSION").exists():
            self._create(plan, data)
        _forget_dead_server(data, folder / "socket")
        sockets = _own(folder / "socket") if len(str(folder)) <= LONGEST_SOCKET_FOLDER else None
        settings = data / "varta.conf"
        files.write(settings, _SETTINGS.format(port=plan.ports["postgres"], sockets=sockets or ""))
        _give(settings)
        return Launch([*_as_unprivileged(), str(_binaries() / "postgres"), "-D", str(data)])

    def is_ready(self, plan: Plan) -> bool:
        asked = subprocess.run(
            [str(_binaries() / "psql"), "-X", "-q", "-A", "-t", "-w", "-c", "select 1"],
            env={
                **os.environ,
                "PGHOST": "127.0.0.1",
                "PGPORT": str(plan.ports["postgres"]),
                "PGUSER": "varta",
                "PGDATABASE": "varta",
                "PGPASSWORD": plan.credentials.postgres,
                "PGCONNECT_TIMEOUT": "2",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        return asked.stdout.strip() == "1"

    def address(self, plan: Plan) -> str:
        return f"127.0.0.1:{plan.ports['postgres']}  user varta, database varta"

    def _create(self, plan: Plan, data: Path) -> None:
        """A whole cluster with its role and database, or none: made beside, then renamed."""
        draft = data.with_name("data.new")
        shutil.rmtree(draft, ignore_errors=True)
        _own(draft)
        superuser = plan.folder.server(self.name) / "superuser"
        files.write_secret(superuser, plan.credentials.postgres_superuser + "\n")
        _give(superuser)
        tools.run(
            [*_as_unprivileged(), str(_binaries() / "initdb"), "-D", str(draft), "-U", "postgres", "-E", "UTF8"]
            + ["--locale=C.UTF-8", "--auth=scram-sha-256", f"--pwfile={superuser}"],
            folder=draft,
        )
        superuser.unlink()
        _run_alone(
            draft,
            # CREATEDB: a test may want a database for itself.
            f"CREATE ROLE varta LOGIN CREATEDB PASSWORD '{plan.credentials.postgres}';\n"
            "CREATE DATABASE varta OWNER varta;\n",
        )
        with open(draft / "postgresql.conf", "a") as settings:
            settings.write("\ninclude_if_exists 'varta.conf'\n")
        draft.rename(data)


def _forget_dead_server(data: Path, sockets: Path) -> None:
    """Remove the lock files of a server that was killed.

    PostgreSQL takes a pid that still exists for a living server, even if it is a
    zombie that nobody reaped. Only when no process is left that works in the
    folder (all of a cluster's processes do) are its lock files surely void.
    """
    lock = data / "postmaster.pid"
    if lock.exists() and waiting.until(lambda: not processes.working_in(data), ORPHANS_SECONDS):
        shutil.rmtree(sockets, ignore_errors=True)
        lock.unlink(missing_ok=True)


def _run_alone(data: Path, statements: str) -> None:
    """SQL without a listener: single-user mode, one statement a line."""
    said = tools.run(
        [*_as_unprivileged(), str(_binaries() / "postgres"), "--single", "-D", str(data), "postgres"],
        folder=data,
        stdin=statements,
    )
    if "ERROR:" in said:
        raise StackError(f"PostgreSQL's first set-up failed:\n{said}")


def _binaries() -> "Path | None":
    """The newest installed version's programs."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    found.sort(key=lambda path: [int(part) for part in re.findall(r"\d+", path.parent.name)])
    if found:
        return found[-1]
    on_path = shutil.which("postgres")
    return Path(on_path).resolve().parent if on_path else None


def _unprivileged() -> pwd.struct_passwd:
    for name in UNPRIVILEGED:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise StackError("root needs an unprivileged user for PostgreSQL: neither postgres nor nobody exists")


def _as_unprivileged() -> List[str]:
    if os.geteuid() != 0:
        return []
    user = _unprivileged()
    return [
        tools.require("setpriv", "to run PostgreSQL without root's rights", "Install util-linux."),
        f"--reuid={user.pw_uid}",
        f"--regid={user.pw_gid}",
        "--clear-groups",
        "--inh-caps=-all,+dac_read_search",
        "--ambient-caps=+dac_read_search",
        "--bounding-set=-all,+dac_read_search",
        "--no-new-privs",
    ]


def _own(folder: Path) -> Path:
    """A folder of the server's user, closed to all others."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _give(folder)
    return folder


def _give(path: Path) -> None:
    if os.geteuid() == 0:
        user = _unprivileged()
        os.chown(path, user.pw_uid, user.pw_gid)

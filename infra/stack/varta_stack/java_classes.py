"""Archives of loaded classes: a Java server that starts from one needs a fraction of the time.

A server that was started without one records it when it is stopped, so that nobody
waits for it at a start. An archive fits one Java and one version of the server; the Java machine
checks it by itself and goes on without it when it does not fit.
"""

import hashlib
import shutil
from pathlib import Path
from typing import List

from . import cache, maven, report, tools
from .errors import StackError
from .places import cache_root

RECORDING = "-XX:+RecordDynamicDumpInfo"


def options(server: str, version: str) -> List[str]:
    """What `java` is to be told: use the archive, or be prepared to make it."""
    archive = _folder(server, version) / "classes.jsa"
    if archive.exists():
        return [f"-XX:SharedArchiveFile={archive}", "-Xlog:cds=off", "-Xlog:class+path=off"]
    return [RECORDING] if shutil.which("jcmd") else []


def record(server: str, version: str, pid: int) -> None:
    """Make the archive from the running server. Failing costs time at the next start, no more."""
    if _folder(server, version).exists() or not _is_recording(pid):
        return
    what = "classes recorded for faster starts"
    try:
        cache.artefact(f"{server}-classes", _fit(version), what, lambda target: _dump(pid, target))
    except StackError as error:
        report.complaint(f"stack: {server} will go on starting slowly: {error}")


def _dump(pid: int, target: Path) -> None:
    archive = target / "classes.jsa"
    said = tools.run(["jcmd", str(pid), "VM.cds", "dynamic_dump", str(archive)])
    if not archive.exists():
        raise StackError(f"no class archive was written: {said.strip()}")


def _is_recording(pid: int) -> bool:
    try:
        return RECORDING.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _folder(server: str, version: str) -> Path:
    return cache_root() / f"{server}-classes-{_fit(version)}"


def _fit(version: str) -> str:
    """The server's version, this very Java, and where the jars are: an archive holds their paths."""
    java = Path(maven.java()).resolve()
    identity = f"{cache_root()} {java} {java.stat().st_mtime_ns} {java.stat().st_size}"
    return f"{version}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"

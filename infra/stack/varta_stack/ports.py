"""Which loopback port each listener uses; chosen once for a stack's folder.

Automatic ports lie below the kernel's ephemeral range: a port in that range can
be taken by any outgoing connection while its server is down, and a server that
is killed and started again must find its port free. A list of claims in the
cache keeps two stacks that are being planned at the same time apart.
"""

import json
import random
import socket
from pathlib import Path
from typing import Callable, Dict, Iterable, Optional, Set

from . import files
from .errors import StackError
from .locks import exclusive
from .places import StackFolder, cache_root

FIXED: Dict[str, int] = {
    "kafka": 19092,
    "kafka_controller": 19093,
    "registry": 18081,
    "mqtt": 11883,
    "mqtt_tls": 18883,
    "postgres": 15432,
    "influx": 18086,
    "s3": 19000,
}
LISTENERS = tuple(FIXED)
AUTOMATIC = range(20000, 32000)


def is_free(port: int) -> bool:
    """Nobody listens there. SO_REUSEADDR: a dead server's TIME_WAIT does not count."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def choose(
    listeners: Iterable[str],
    taken: Set[int],
    free: Callable[[int], bool] = is_free,
    candidates: Optional[Iterable[int]] = None,
) -> Dict[str, int]:
    """One free port for each listener, none from `taken`; random, so that rivals rarely meet."""
    pool = iter(candidates if candidates is not None else random.sample(AUTOMATIC, len(AUTOMATIC)))
    chosen: Dict[str, int] = {}
    for listener in listeners:
        port = next((p for p in pool if p not in taken and free(p)), None)
        if port is None:
            raise StackError("no free port left between 20000 and 31999 on 127.0.0.1")
        chosen[listener] = port
    return chosen


def known(folder: StackFolder) -> Optional[Dict[str, int]]:
    """The ports that this folder was given before, if it was."""
    document = _read(folder.ports)
    ports = document.get("ports", {})
    return ports if set(LISTENERS) <= set(ports) else None


def settle(folder: StackFolder, mode: Optional[str], anything_runs: bool) -> Dict[str, int]:
    """The folder's ports, chosen now unless they were chosen before.

    Another mode than before is obeyed while nothing runs, and refused otherwise:
    clients of running servers would lose them.
    """
    before = known(folder)
    chosen_mode = _read(folder.ports).get("mode")
    if before and (mode is None or mode == chosen_mode):
        return before
    if before and anything_runs:
        raise StackError(f"{folder.root} runs on {chosen_mode} ports; stop it before changing to --ports {mode}")
    mode = mode or "auto"
    claims = cache_root() / "port-claims.json"
    with exclusive(cache_root() / "locks" / "ports.lock"):
        claimed = _live_claims(claims)
        if mode == "fixed":
            ports = dict(FIXED)
        else:
            others = {port for root, owned in claimed.items() if root != str(folder.root) for port in owned}
            ports = choose(LISTENERS, others | set(FIXED.values()))
        files.write(folder.ports, json.dumps({"mode": mode, "ports": ports}, indent=2) + "\n")
        claimed[str(folder.root)] = sorted(ports.values())
        files.write(claims, json.dumps(claimed, indent=2) + "\n")
    return ports


def _live_claims(path: Path) -> Dict[str, list]:
    """Claims whose folder still exists; a test's folder that was removed frees its ports."""
    return {root: ports for root, ports in _read(path).items() if StackFolder.at(root).ports.exists()}


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}

"""Several servers at once: each in a thread of its own, none waits for a stranger."""

import threading
from typing import Callable, Dict, List, Sequence

from . import report
from .errors import StackError
from .servers.server import Server


def each(servers: Sequence[Server], action: Callable[[Server], None]) -> List[str]:
    """Run `action` for all servers in parallel; the names of those that failed, in order."""
    failures: Dict[str, str] = {}

    def guarded(server: Server) -> None:
        try:
            action(server)
        except StackError as error:
            failures[server.name] = str(error)
            report.complaint(f"stack: {error}")
        except Exception as error:  # a bug of ours must not pass for success
            failures[server.name] = repr(error)
            report.complaint(f"stack: {server.name}: {type(error).__name__}: {error}")

    threads = [threading.Thread(target=guarded, args=(server,), name=server.name, daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [server.name for server in servers if server.name in failures]


def layers_for_stopping(servers: Sequence[Server]) -> List[List[Server]]:
    """Dependants first: who needs another server is stopped before it."""
    needed = {name for server in servers for name in server.needs}
    above = [server for server in servers if server.name not in needed]
    below = [server for server in servers if server.name in needed]
    return [layer for layer in (above, below) if layer]

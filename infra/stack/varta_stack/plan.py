"""What is decided about a stack before any of its servers starts."""

from dataclasses import dataclass
from typing import Dict, Optional

from . import credentials as credentials_of
from . import ports as ports_of
from .credentials import Credentials
from .errors import StackError
from .locks import exclusive
from .places import StackFolder


@dataclass(frozen=True)
class Plan:
    """Folder, ports and secrets: all that a server needs to write its configuration."""

    folder: StackFolder
    ports: Dict[str, int]
    credentials: Credentials


def settle(folder: StackFolder, mode: Optional[str] = None, anything_runs: bool = False) -> Plan:
    """Decide what is not decided yet; the same folder always gets the same answer."""
    folder.root.mkdir(parents=True, exist_ok=True)
    with exclusive(folder.plan_lock):
        ports = ports_of.settle(folder, mode, anything_runs)
        return Plan(folder, ports, credentials_of.settle(folder))


def existing(folder: StackFolder) -> Plan:
    """The plan of a stack that was `up` before."""
    ports = ports_of.known(folder)
    if ports is None or not folder.credentials.exists():
        raise StackError(f"{folder.root} holds no stack; make one with: stack up --dir {folder.root}")
    return Plan(folder, ports, credentials_of.settle(folder))

"""The servers, one file each; every file has the same parts in the same order."""

from typing import Dict, Iterable, List

from ..errors import StackError
from .influx import Influx
from .kafka import Kafka
from .mosquitto import Mosquitto
from .postgres import Postgres
from .registry import Registry
from .s3 import S3
from .server import Server

ALL: Dict[str, Server] = {
    server.name: server for server in (Kafka(), Registry(), Mosquitto(), Postgres(), Influx(), S3())
}


def named(names: Iterable[str]) -> List[Server]:
    """The servers of these names in the order of `ALL`; all of them if none is named."""
    wanted = list(names)
    unknown = sorted(set(wanted) - set(ALL))
    if unknown:
        raise StackError(f"unknown server {', '.join(unknown)}; there are: {', '.join(ALL)}")
    return [server for server in ALL.values() if not wanted or server.name in wanted]


def with_needs(chosen: List[Server]) -> List[Server]:
    """The chosen servers and those that they cannot live without."""
    names = {server.name for server in chosen}
    for server in chosen:
        names.update(server.needs)
    return named(names)

"""Passwords and tokens, random for each stack's folder, readable by its owner only."""

import json
import secrets
from dataclasses import asdict, dataclass

from . import files
from .places import StackFolder


@dataclass(frozen=True)
class Credentials:
    """Hexadecimal only: they go into URLs, shell files and configurations unquoted."""

    mqtt_bridge: str
    mqtt_agent: str
    postgres: str
    postgres_superuser: str
    influx_admin: str
    influx_token: str

    @classmethod
    def random(cls) -> "Credentials":
        return cls(*(secrets.token_hex(16) for _ in cls.__dataclass_fields__))


def settle(folder: StackFolder) -> Credentials:
    """This folder's credentials; made once, because servers store what they were set up with."""
    if folder.credentials.exists():
        return Credentials(**json.loads(folder.credentials.read_text()))
    made = Credentials.random()
    files.write_secret(folder.credentials, json.dumps(asdict(made), indent=2) + "\n")
    return made

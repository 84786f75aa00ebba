"""Where things are: the repository's templates, the cache, and one stack's own folder."""

import os
from dataclasses import dataclass
from pathlib import Path

INFRA = Path(__file__).resolve().parent.parent.parent
LAUNCHER = INFRA / "stack" / "stack"
MOSQUITTO_TEMPLATES = INFRA / "mosquitto"


def cache_root() -> Path:
    """Downloads and builds, shared by all stacks of this user."""
    named = os.environ.get("VARTA_CACHE")
    return Path(named).expanduser().absolute() if named else Path.home() / ".cache" / "varta"


@dataclass(frozen=True)
class StackFolder:
    """DIR of the command line. Everything a stack owns is under it."""

    root: Path

    @classmethod
    def at(cls, path: str) -> "StackFolder":
        return cls(Path(path).expanduser().absolute())

    def server(self, name: str) -> Path:
        return self.root / name

    def log(self, name: str) -> Path:
        return self.root / name / "log"

    def pid(self, name: str) -> Path:
        return self.root / name / "pid"

    def lock(self, name: str) -> Path:
        """Held while somebody starts or stops this server."""
        return self.root / name / ".lock"

    @property
    def plan_lock(self) -> Path:
        return self.root / ".lock"

    @property
    def ports(self) -> Path:
        return self.root / "ports.json"

    @property
    def credentials(self) -> Path:
        return self.root / "credentials.json"

    @property
    def env(self) -> Path:
        return self.root / "stack.env"

    @property
    def json(self) -> Path:
        return self.root / "stack.json"

    @property
    def background_log(self) -> Path:
        return self.root / "stack.log"

    @property
    def background_pid(self) -> Path:
        return self.root / "stack.pid"

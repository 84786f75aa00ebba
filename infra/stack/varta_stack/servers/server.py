"""What is asked of each server. Configuration and probes differ; the way of life does not."""

import abc
import signal
from typing import Tuple

from ..plan import Plan
from ..processes import Launch, Process


class Server(abc.ABC):
    """One kind of server. It holds no state: all state is in the plan's folder."""

    name: str
    version: str
    listeners: Tuple[str, ...]
    needs: Tuple[str, ...] = ()
    stop_signal: int = signal.SIGTERM
    stop_seconds: float = 20
    ready_seconds: float = 90

    @abc.abstractmethod
    def install(self) -> None:
        """Fetch or build what is missing; instant when nothing is."""

    @abc.abstractmethod
    def prepare(self, plan: Plan) -> Launch:
        """Write the configuration, make the data folder if there is none; how to start."""

    @abc.abstractmethod
    def is_ready(self, plan: Plan) -> bool:
        """The server answers in its own protocol, now."""

    @abc.abstractmethod
    def address(self, plan: Plan) -> str:
        """For people."""

    def first_steps(self, plan: Plan) -> None:
        """What must be done once through the running server; repeating it is harmless."""

    def last_steps(self, process: Process) -> None:
        """What the running server still gives before it is stopped."""

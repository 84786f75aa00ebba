"""An S3-compatible store: moto's server. It keeps everything in memory, so its loss proves nothing."""

import urllib.request
from pathlib import Path

from .. import probes, python_environment
from ..plan import Plan
from ..processes import Launch
from .server import Server

BUCKET = "varta"
SERVER = Path(__file__).resolve().parent.parent / "s3_server.py"


class S3(Server):
    name = "s3"
    version = "moto-5.2.5"
    listeners = ("s3",)

    def install(self) -> None:
        python_environment.ensure()

    def prepare(self, plan: Plan) -> Launch:
        plan.folder.server(self.name).mkdir(parents=True, exist_ok=True)
        python = str(python_environment.ensure())
        return Launch([python, str(SERVER), str(plan.ports["s3"])])

    def is_ready(self, plan: Plan) -> bool:
        return probes.http_status(f"{self.address(plan)}/moto-api/") == 200

    def address(self, plan: Plan) -> str:
        return f"http://127.0.0.1:{plan.ports['s3']}"

    def first_steps(self, plan: Plan) -> None:
        """The bucket; making it a second time is harmless."""
        request = urllib.request.Request(f"{self.address(plan)}/{BUCKET}", method="PUT")
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10):
            pass

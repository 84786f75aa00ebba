"""InfluxDB 2, built from its Go module (the module ships no binary and no web page)."""

import json
import urllib.error
import urllib.request
from pathlib import Path

from .. import cache, influx_build, probes
from ..errors import StackError
from ..plan import Plan
from ..processes import Launch
from .server import Server


class Influx(Server):
    name = "influx"
    version = "2.7.12"
    listeners = ("influx",)

    def install(self) -> None:
        self._home()

    def prepare(self, plan: Plan) -> Launch:
        data = plan.folder.server(self.name) / "data"
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        return Launch(
            [
                str(self._home() / "influxd"),
                "--reporting-disabled",
                f"--http-bind-address=127.0.0.1:{plan.ports['influx']}",
                f"--bolt-path={data / 'influxd.bolt'}",
                f"--sqlite-path={data / 'influxd.sqlite'}",
                f"--engine-path={data / 'engine'}",
                "--log-level=warn",
            ],
            {"INFLUXD_CONFIG_PATH": str(data)},
        )

    def is_ready(self, plan: Plan) -> bool:
        return probes.http_status(f"{self.address(plan)}/health") == 200

    def address(self, plan: Plan) -> str:
        return f"http://127.0.0.1:{plan.ports['influx']}"

    def first_steps(self, plan: Plan) -> None:
        """Organisation, bucket and token; a server that was set up before says so and is left alone."""
        url = f"{self.address(plan)}/api/v2/setup"
        if not json.loads(_ask(url))["allowed"]:
            return
        order = {
            "username": "varta",
            "password": plan.credentials.influx_admin,
            "org": "varta",
            "bucket": "varta",
            "token": plan.credentials.influx_token,
            "retentionPeriodSeconds": 0,
        }
        _ask(url, json.dumps(order).encode())

    def _home(self) -> Path:
        return cache.artefact("influx", self.version, "built", lambda target: influx_build.build(self.version, target))


def _ask(url: str, body: "bytes | None" = None) -> bytes:
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return answer.read()
    except urllib.error.HTTPError as refused:
        reason = refused.read().decode("utf-8", "replace")
        raise StackError(f"InfluxDB refused {url}: {refused.code} {reason}") from refused
    except OSError as failed:
        raise StackError(f"InfluxDB did not answer {url}: {failed}") from failed

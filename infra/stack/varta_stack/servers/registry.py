"""Apicurio Registry: Confluent's schema registry API; schemas are kept in Kafka itself."""

import shutil
import tarfile
from pathlib import Path

from .. import cache, java_classes, maven, probes
from ..errors import StackError
from ..plan import Plan
from ..processes import Launch, Process
from .server import Server


class Registry(Server):
    name = "registry"
    version = "3.0.9"
    listeners = ("registry",)
    needs = ("kafka",)
    ready_seconds = 180

    def install(self) -> None:
        maven.java()
        self._jar()

    def prepare(self, plan: Plan) -> Launch:
        # A shared temporary folder would fail for the second user of a machine: its cache has a fixed name.
        scratch = plan.folder.server(self.name) / "scratch"
        scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
        return Launch(
            [
                maven.java(),
                *java_classes.options(self.name, self.version),
                # It answers a few requests a minute: the time to compile thoroughly is never earned back.
                "-XX:TieredStopAtLevel=1",
                "-Xms64m",
                "-Xmx256m",
                "-XX:+UseSerialGC",
                "-XX:+ExitOnOutOfMemoryError",
                "-Djava.awt.headless=true",
                f"-Djava.io.tmpdir={scratch}",
                "-jar",
                str(self._jar()),
            ],
            {
                "QUARKUS_HTTP_HOST": "127.0.0.1",
                "QUARKUS_HTTP_PORT": str(plan.ports["registry"]),
                "QUARKUS_HTTP_ACCESS_LOG_ENABLED": "false",
                "APICURIO_STORAGE_KIND": "kafkasql",
                "APICURIO_KAFKASQL_BOOTSTRAP_SERVERS": f"127.0.0.1:{plan.ports['kafka']}",
            },
        )

    def is_ready(self, plan: Plan) -> bool:
        return probes.http_status(f"{self.address(plan)}/subjects") == 200

    def address(self, plan: Plan) -> str:
        return f"http://127.0.0.1:{plan.ports['registry']}/apis/ccompat/v7"

    def last_steps(self, process: Process) -> None:
        java_classes.record(self.name, self.version, process.pid)

    def _jar(self) -> Path:
        home = cache.artefact(self.name, self.version, "fetched", self._fetch)
        return _runner(home)

    def _fetch(self, target: Path) -> None:
        maven.fetch_alone(f"io.apicurio:apicurio-registry-app:{self.version}:tar.gz:all", target)
        (archive,) = target.glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(target, filter="data") if hasattr(tarfile, "data_filter") else packed.extractall(target)
        archive.unlink()
        _runner(target)


def _runner(home: Path) -> Path:
    found = sorted(home.rglob("*-runner.jar"))
    if not found:
        shutil.rmtree(home, ignore_errors=True)
        raise StackError("the registry's archive holds no runner jar; its version may have another layout")
    return found[0]

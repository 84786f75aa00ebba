"""Apache Kafka: one KRaft node, broker and controller in one process."""

import base64
import os
import uuid
from pathlib import Path

from .. import cache, files, java_classes, maven, probes, tools
from ..plan import Plan
from ..processes import Launch, Process
from .server import Server

LOG4J = "2.25.1"
LARGEST_MESSAGE = 8 * 1024 * 1024

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=CLIENT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=CLIENT://127.0.0.1:{client}
listener.security.protocol.map=CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=CLIENT
controller.listener.names=CONTROLLER
log.dirs={data}

auto.create.topics.enable=false
message.max.bytes={largest}
replica.fetch.max.bytes={largest}

# One node: every replicated thing has one replica.
default.replication.factor=1
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1

# Internal topics are created at first use; their default of 50 partitions is slow on one disk.
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
share.coordinator.state.topic.num.partitions=1

# Groups settle at once, and a test may notice a dead member within seconds.
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000

# A killed broker's successor is refused until the dead one's session has run out: 9 s by default. Where nothing kills
# it and the machine is busier than its heartbeats stand, VARTA_STACK_BROKER_SESSION_MS is longer.
broker.session.timeout.ms={session}
broker.heartbeat.interval.ms=500

# The default buffer is a quarter of this heap.
log.cleaner.dedupe.buffer.size=16777216
"""

_LOGGING = """\
<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="WARN">
  <Appenders>
    <Console name="out"><PatternLayout pattern="%d{yyyy-MM-dd HH:mm:ss,SSS} %p %c{1} %m%n"/></Console>
  </Appenders>
  <Loggers>
    <Logger name="kafka.server.KafkaRaftServer" level="info"/>
    <Logger name="org.apache.kafka.coordinator" level="info"/>
    <Root level="warn"><AppenderRef ref="out"/></Root>
  </Loggers>
</Configuration>
"""


class Kafka(Server):
    name = "kafka"
    version = "4.1.1"
    listeners = ("kafka", "kafka_controller")
    stop_seconds = 30
    ready_seconds = 180

    def install(self) -> None:
        maven.java()
        self._home()

    def prepare(self, plan: Plan) -> Launch:
        folder = plan.folder.server(self.name)
        properties, logging, data = folder / "server.properties", folder / "log4j2.xml", folder / "data"
        files.write(properties, render_properties(plan.ports["kafka"], plan.ports["kafka_controller"], str(data)))
        files.write(logging, _LOGGING)
        java = [
            maven.java(),
            "-Xms256m",
            "-Xmx512m",
            "-XX:+UseSerialGC",
            "-XX:+ExitOnOutOfMemoryError",
            "-Djava.awt.headless=true",
            f"-Dlog4j2.configurationFile={logging}",
            "-cp",
            f"{self._home()}/*",
        ]
        if not (data / "meta.properties").exists():
            format_command = [*java, "kafka.tools.StorageTool", "format", "--ignore-formatted"]
            tools.run([*format_command, "-t", _cluster_id(), "-c", str(properties)])
        classes = java_classes.options(self.name, self.version)
        return Launch([java[0], *classes, *java[1:], "kafka.Kafka", str(properties)])

    def is_ready(self, plan: Plan) -> bool:
        return probes.kafka(plan.ports["kafka"])

    def address(self, plan: Plan) -> str:
        return f"127.0.0.1:{plan.ports['kafka']}"

    def last_steps(self, process: Process) -> None:
        java_classes.record(self.name, self.version, process.pid)

    def _home(self) -> Path:
        coordinates = [
            f"org.apache.kafka:kafka_2.13:{self.version}",
            f"org.apache.logging.log4j:log4j-slf4j-impl:{LOG4J}",
        ]
        return cache.artefact(
            self.name, self.version, "fetched", lambda target: maven.fetch_with_dependencies(coordinates, target)
        )


def render_properties(client: int, controller: int, data: str) -> str:
    session = os.environ.get("VARTA_STACK_BROKER_SESSION_MS", "5000")
    return _PROPERTIES.format(
        client=client, controller=controller, data=data, largest=LARGEST_MESSAGE, session=session
    )


def _cluster_id() -> str:
    """Kafka's own form: 16 random bytes, base64 for URLs, not beginning with a dash."""
    while True:
        made = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not made.startswith("-"):
            return made

"""Eclipse Mosquitto from Debian, our own instance beside any system service."""

import os
import pwd
import shutil

from .. import apt, certificates, files, mosquitto_config, probes, tools
from ..environment import MQTT_AGENT_USER, MQTT_BRIDGE_USER
from ..plan import Plan
from ..processes import Launch
from .server import Server

PACKAGE = "mosquitto"
SBIN = "/usr/sbin"


class Mosquitto(Server):
    name = "mosquitto"
    version = "2"
    listeners = ("mqtt", "mqtt_tls")
    ready_seconds = 30

    def install(self) -> None:
        if not _program("mosquitto"):
            apt.install([PACKAGE])
        if not shutil.which("openssl"):
            apt.install(["openssl"])

    def prepare(self, plan: Plan) -> Launch:
        folder = plan.folder.server(self.name)
        data = folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        certificates.ensure(folder / "certs")
        files.write(folder / "acl", mosquitto_config.acl())
        self._write_passwords(plan)
        files.write(folder / "mosquitto.conf", self._configuration(plan))
        return Launch([_program("mosquitto"), "-c", str(folder / "mosquitto.conf")])

    def is_ready(self, plan: Plan) -> bool:
        return probes.mqtt(plan.ports["mqtt"], MQTT_BRIDGE_USER, plan.credentials.mqtt_bridge)

    def address(self, plan: Plan) -> str:
        return f"mqtt://127.0.0.1:{plan.ports['mqtt']}  mqtts://127.0.0.1:{plan.ports['mqtt_tls']}"

    def _configuration(self, plan: Plan) -> str:
        folder = plan.folder.server(self.name)
        return mosquitto_config.render(
            user=pwd.getpwuid(os.geteuid()).pw_name,
            plain_listener=f"{plan.ports['mqtt']} 127.0.0.1",
            tls_listener=f"{plan.ports['mqtt_tls']} 127.0.0.1",
            data=f"{folder / 'data'}/",
            passwords=str(folder / "passwords"),
            acl=str(folder / "acl"),
            certificates=str(folder / "certs"),
            max_queued=os.environ.get("VARTA_MQTT_MAX_QUEUED", mosquitto_config.DEFAULT_MAX_QUEUED),
            require_certificate="true" if os.environ.get("VARTA_MQTT_MUTUAL_TLS") == "1" else "false",
        )

    def _write_passwords(self, plan: Plan) -> None:
        """Plain text for the blink that mosquitto_passwd needs to hash it in place, in a 0600 file."""
        path = plan.folder.server(self.name) / "passwords"
        if path.exists():
            return
        draft = path.with_name("passwords.new")
        secret = plan.credentials
        files.write_secret(draft, f"{MQTT_BRIDGE_USER}:{secret.mqtt_bridge}\n{MQTT_AGENT_USER}:{secret.mqtt_agent}\n")
        tools.run([_program("mosquitto_passwd"), "-U", str(draft)])
        draft.chmod(0o600)
        draft.rename(path)


def _program(name: str) -> str:
    """Debian keeps the broker in a folder that is not on every user's path."""
    return shutil.which(name) or shutil.which(name, path=SBIN) or ""

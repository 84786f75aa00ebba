"""The addresses and secrets as the pipeline reads them: `stack.env` and `stack.json`."""

import json
import shlex
from typing import Dict

from . import files, python_environment
from .plan import Plan

MQTT_BRIDGE_USER = "bridge"
MQTT_AGENT_USER = "agent"


def variables(plan: Plan) -> Dict[str, str]:
    """Every key that a consumer may rely on, whichever servers are asked for."""
    ports, secret = plan.ports, plan.credentials
    certificates = plan.folder.server("mosquitto") / "certs"
    return {
        "VARTA_KAFKA": f"127.0.0.1:{ports['kafka']}",
        "VARTA_REGISTRY": f"http://127.0.0.1:{ports['registry']}/apis/ccompat/v7",
        "VARTA_MQTT_HOST": "127.0.0.1",
        "VARTA_MQTT_PORT": str(ports["mqtt"]),
        "VARTA_MQTT_TLS_PORT": str(ports["mqtt_tls"]),
        "VARTA_MQTT_CA": str(certificates / "ca.crt"),
        "VARTA_MQTT_CLIENT_CERT": str(certificates / "client.crt"),
        "VARTA_MQTT_CLIENT_KEY": str(certificates / "client.key"),
        "VARTA_MQTT_USER_BRIDGE": MQTT_BRIDGE_USER,
        "VARTA_MQTT_PASSWORD_BRIDGE": secret.mqtt_bridge,
        "VARTA_MQTT_USER_AGENT": MQTT_AGENT_USER,
        "VARTA_MQTT_PASSWORD_AGENT": secret.mqtt_agent,
        "VARTA_POSTGRES": f"postgres://varta:{secret.postgres}@127.0.0.1:{ports['postgres']}/varta",
        "VARTA_INFLUX_URL": f"http://127.0.0.1:{ports['influx']}",
        "VARTA_INFLUX_TOKEN": secret.influx_token,
        "VARTA_INFLUX_ORG": "varta",
        "VARTA_INFLUX_BUCKET": "varta",
        "VARTA_S3": f"http://127.0.0.1:{ports['s3']}",
        "VARTA_S3_BUCKET": "varta",
        "VARTA_PYTHON": str(python_environment.interpreter()),
    }


def render_shell(values: Dict[str, str]) -> str:
    """`KEY=value` lines; only what a shell would split or expand is quoted."""
    return "".join(f"{key}={shlex.quote(value)}\n" for key, value in values.items())


def publish(plan: Plan) -> None:
    """Written before any server is up, so that consumers can start and wait."""
    values = variables(plan)
    files.write_secret(plan.folder.env, render_shell(values))
    files.write_secret(plan.folder.json, json.dumps(values, indent=2) + "\n")

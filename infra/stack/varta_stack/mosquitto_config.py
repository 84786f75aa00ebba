"""Mosquitto's configuration from the template that the container setup shares."""

import string

from .places import MOSQUITTO_TEMPLATES

DEFAULT_MAX_QUEUED = "100000"

CONTAINER = {
    "user": "mosquitto",
    "plain_listener": "1883",
    "tls_listener": "8883",
    "data": "/mosquitto/data/",
    "passwords": "/mosquitto/secrets/passwords",
    "acl": "/mosquitto/config/acl",
    "certificates": "/mosquitto/secrets/certs",
    "max_queued": DEFAULT_MAX_QUEUED,
    "require_certificate": "false",
}


def render(**values: str) -> str:
    """Every placeholder must get a value; a missing one is an error, not an empty line."""
    return string.Template((MOSQUITTO_TEMPLATES / "mosquitto.conf.template").read_text()).substitute(values)


def acl() -> str:
    return (MOSQUITTO_TEMPLATES / "acl").read_text()

"""Questions that only a working server answers, each in the server's own protocol."""

import socket
import struct
import urllib.error
import urllib.request
from typing import Optional

TIMEOUT_SECONDS = 2.0
LARGEST_ANSWER = 16 * 1024 * 1024
KAFKA_METADATA, KAFKA_METADATA_VERSION = 3, 1


def http_status(url: str) -> Optional[int]:
    """The status of a GET, or None when nobody answers HTTP there."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=TIMEOUT_SECONDS) as answer:
            return answer.status
    except urllib.error.HTTPError as refused:
        return refused.code
    except (OSError, ValueError):
        return None


def kafka_metadata_request(client_id: str = "varta-stack") -> bytes:
    """Metadata v1 for no topic: brokers and controller only."""
    name = client_id.encode()
    body = struct.pack(">hhih", KAFKA_METADATA, KAFKA_METADATA_VERSION, 1, len(name)) + name
    body += struct.pack(">i", 0)
    return struct.pack(">i", len(body)) + body


def kafka_has_controller(answer: bytes) -> bool:
    """At least one broker is registered and a controller is known (Metadata v1, size stripped)."""
    (brokers,) = struct.unpack_from(">i", answer, 4)
    at = 8
    for _ in range(brokers):
        at += 4
        (host,) = struct.unpack_from(">h", answer, at)
        at += 2 + host + 4
        (rack,) = struct.unpack_from(">h", answer, at)
        at += 2 + max(rack, 0)
    (controller,) = struct.unpack_from(">i", answer, at)
    return brokers > 0 and controller >= 0


def kafka(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS) as broker:
            broker.settimeout(TIMEOUT_SECONDS)
            broker.sendall(kafka_metadata_request())
            (size,) = struct.unpack(">i", _exactly(broker, 4))
            return 0 < size < LARGEST_ANSWER and kafka_has_controller(_exactly(broker, size))
    except (OSError, struct.error):
        return False


def mqtt_connect_packet(client_id: str, user: str, password: str) -> bytes:
    """CONNECT of MQTT 3.1.1 with a clean session (short strings: one length byte)."""
    flags = 0b1100_0010
    body = _mqtt_text("MQTT") + bytes([4, flags]) + struct.pack(">H", 10)
    body += _mqtt_text(client_id) + _mqtt_text(user) + _mqtt_text(password)
    return bytes([0x10, len(body)]) + body


def mqtt(port: int, user: str, password: str) -> bool:
    """The broker accepts this user: CONNACK with return code 0."""
    try:
        with socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS) as broker:
            broker.settimeout(TIMEOUT_SECONDS)
            broker.sendall(mqtt_connect_packet("varta-stack-probe", user, password))
            accepted = _exactly(broker, 4)[0::3] == bytes([0x20, 0x00])
            broker.sendall(bytes([0xE0, 0x00]))
            return accepted
    except OSError:
        return False


def _mqtt_text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack(">H", len(raw)) + raw


def _exactly(stream: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count:
        piece = stream.recv(count - len(received))
        if not piece:
            raise ConnectionResetError("closed before the answer was complete")
        received += piece
    return received

"""Packets by the protocols' own definitions; closed ports are not ready."""

import socket
import struct
import unittest

from varta_stack import probes


def metadata_answer(brokers, controller):
    body = struct.pack(">ii", 1, brokers)
    for node in range(brokers):
        body += struct.pack(">ih", node, 9) + b"127.0.0.1" + struct.pack(">ih", 9092, -1)
    return body + struct.pack(">ii", controller, 0)


class KafkaProbe(unittest.TestCase):
    def test_the_request_carries_its_own_size(self):
        request = probes.kafka_metadata_request("x")
        self.assertEqual(struct.unpack(">i", request[:4])[0], len(request) - 4)
        self.assertEqual(struct.unpack(">hh", request[4:8]), (3, 1))

    def test_ready_means_a_broker_and_a_controller(self):
        self.assertTrue(probes.kafka_has_controller(metadata_answer(1, 1)))
        self.assertFalse(probes.kafka_has_controller(metadata_answer(0, 1)))
        self.assertFalse(probes.kafka_has_controller(metadata_answer(1, -1)))


class MqttProbe(unittest.TestCase):
    def test_connect_is_what_the_standard_says(self):
        packet = probes.mqtt_connect_packet("c", "u", "p")
        self.assertEqual(packet, b"\x10\x13\x00\x04MQTT\x04\xc2\x00\x0a\x00\x01c\x00\x01u\x00\x01p")


class Nobody(unittest.TestCase):
    def test_a_closed_port_is_not_ready(self):
        with socket.socket() as reserved:
            reserved.bind(("127.0.0.1", 0))
            port = reserved.getsockname()[1]
            self.assertFalse(probes.kafka(port))
            self.assertFalse(probes.mqtt(port, "u", "p"))
            self.assertIsNone(probes.http_status(f"http://127.0.0.1:{port}/"))


if __name__ == "__main__":
    unittest.main()

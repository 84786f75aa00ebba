"""What consumers read: complete, quoted, secret."""

import json
import stat
import subprocess
import tempfile
import unittest
from pathlib import Path

from varta_stack import environment, ports
from varta_stack.credentials import Credentials
from varta_stack.places import StackFolder
from varta_stack.plan import Plan

PROMISED = {
    "VARTA_KAFKA",
    "VARTA_REGISTRY",
    "VARTA_MQTT_HOST",
    "VARTA_MQTT_PORT",
    "VARTA_MQTT_TLS_PORT",
    "VARTA_MQTT_CA",
    "VARTA_MQTT_USER_BRIDGE",
    "VARTA_MQTT_PASSWORD_BRIDGE",
    "VARTA_MQTT_USER_AGENT",
    "VARTA_MQTT_PASSWORD_AGENT",
    "VARTA_POSTGRES",
    "VARTA_INFLUX_URL",
    "VARTA_INFLUX_TOKEN",
    "VARTA_INFLUX_ORG",
    "VARTA_INFLUX_BUCKET",
    "VARTA_S3",
    "VARTA_S3_BUCKET",
    "VARTA_PYTHON",
}


class Environment(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory(suffix=" with a space")
        self.addCleanup(temporary.cleanup)
        folder = StackFolder.at(temporary.name)
        self.plan = Plan(folder, dict(ports.FIXED), Credentials.random())
        environment.publish(self.plan)

    def test_every_promised_key_is_there(self):
        self.assertLessEqual(PROMISED, set(environment.variables(self.plan)))

    def test_a_shell_reads_what_json_says(self):
        folder = self.plan.folder
        script = f"set -a; . '{folder.env}'; env"
        said = subprocess.run(["sh", "-c", script], env={}, capture_output=True, text=True, check=True).stdout
        from_shell = dict(row.partition("=")[::2] for row in said.splitlines())
        for key, value in json.loads(folder.json.read_text()).items():
            self.assertEqual(from_shell[key], value)

    def test_only_the_owner_reads_them(self):
        for path in (self.plan.folder.env, self.plan.folder.json):
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)

    def test_secrets_differ_from_each_other_and_between_folders(self):
        one, two = vars(Credentials.random()), vars(Credentials.random())
        self.assertEqual(len({*one.values(), *two.values()}), 2 * len(one))

    def test_plain_values_stay_unquoted(self):
        self.assertEqual(environment.render_shell({"A": "127.0.0.1:9092"}), "A=127.0.0.1:9092\n")
        self.assertEqual(environment.render_shell({"A": "a b"}), "A='a b'\n")


if __name__ == "__main__":
    unittest.main()

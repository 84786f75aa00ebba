"""Rendered configurations, and the order in which servers live and stop."""

import re
import tempfile
import threading
import unittest
from pathlib import Path
from unittest import mock

from varta_stack import cache, mosquitto_config, together
from varta_stack.errors import StackError
from varta_stack.places import INFRA
from varta_stack.servers import ALL, named, with_needs
from varta_stack.servers.kafka import render_properties


class Mosquitto(unittest.TestCase):
    def test_the_containers_rendering_is_fresh(self):
        committed = (INFRA / "compose" / "mosquitto.conf").read_text()
        self.assertEqual(committed, mosquitto_config.render(**mosquitto_config.CONTAINER))

    def test_a_missing_value_is_an_error(self):
        with self.assertRaises(KeyError):
            mosquitto_config.render(user="x")

    def test_agents_are_confined_by_their_client_id(self):
        for rule in re.findall(r"^pattern .*$", mosquitto_config.acl(), re.MULTILINE):
            self.assertRegex(rule, r"^pattern (read (agent|alerts|reports/agent)|write agent)/%c/")

    def test_reports_are_read_by_accounts_that_are_named_for_it(self):
        account, readers = "", set()
        for line in mosquitto_config.acl().splitlines():
            if line.startswith("user "):
                account = line.split()[1]
            elif line.startswith("topic ") and "reports/" in line:
                readers.add(account)
        self.assertEqual(readers, {"bridge", "observer"})


class Kafka(unittest.TestCase):
    def test_the_node_is_reachable_on_loopback_only(self):
        rows = render_properties(1, 2, "/data").splitlines()
        self.assertIn("listeners=CLIENT://127.0.0.1:1,CONTROLLER://127.0.0.1:2", rows)
        self.assertIn("message.max.bytes=8388608", rows)


class Order(unittest.TestCase):
    def test_a_server_brings_what_it_needs(self):
        self.assertEqual([server.name for server in with_needs(named(["registry"]))], ["kafka", "registry"])

    def test_dependants_stop_first(self):
        above, below = together.layers_for_stopping(list(ALL.values()))
        self.assertIn("registry", [server.name for server in above])
        self.assertEqual([server.name for server in below], ["kafka"])

    def test_an_unknown_name_is_refused(self):
        with self.assertRaises(StackError):
            named(["zookeeper"])

    def test_one_failure_does_not_hold_the_others(self):
        done = []

        def action(server):
            if server.name == "kafka":
                raise StackError("no")
            done.append(server.name)

        with mock.patch("varta_stack.report.complaint"):
            self.assertEqual(together.each(list(ALL.values()), action), ["kafka"])
        self.assertEqual(len(done), len(ALL) - 1)


class Cache(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        for patch in (
            mock.patch.dict("os.environ", {"VARTA_CACHE": temporary.name}),
            mock.patch("varta_stack.report.line"),
        ):
            patch.start()
            self.addCleanup(patch.stop)
        self.root = Path(temporary.name)

    def test_a_failed_make_leaves_nothing(self):
        def half(target):
            (target / "half").touch()
            raise StackError("broken")

        with self.assertRaises(StackError):
            cache.artefact("thing", "1", "made", half)
        self.assertEqual([path.name for path in self.root.iterdir()], ["locks"])

    def test_rivals_make_it_once(self):
        made = []

        def make(target):
            made.append(target)
            (target / "whole").touch()

        rivals = [threading.Thread(target=cache.artefact, args=("thing", "1", "made", make)) for _ in range(4)]
        for rival in rivals:
            rival.start()
        for rival in rivals:
            rival.join()
        self.assertEqual(len(made), 1)
        self.assertTrue((self.root / "thing-1" / "whole").exists())


if __name__ == "__main__":
    unittest.main()

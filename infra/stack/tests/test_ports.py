"""Ports are free, apart from other stacks', and stay with their folder."""

import json
import os
import socket
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from varta_stack import ports
from varta_stack.errors import StackError
from varta_stack.places import StackFolder


class Choosing(unittest.TestCase):
    def test_skips_what_is_taken_and_what_is_not_free(self):
        chosen = ports.choose(["a", "b"], {20001}, free=lambda port: port != 20002, candidates=range(20000, 20010))
        self.assertEqual(chosen, {"a": 20000, "b": 20003})

    def test_never_gives_one_port_twice(self):
        chosen = ports.choose(ports.LISTENERS, set(), free=lambda port: True)
        self.assertEqual(len(set(chosen.values())), len(ports.LISTENERS))

    def test_stays_below_the_ephemeral_range(self):
        chosen = ports.choose(ports.LISTENERS, set(), free=lambda port: True)
        self.assertTrue(all(20000 <= port < 32000 for port in chosen.values()))

    def test_says_so_when_none_is_left(self):
        with self.assertRaises(StackError):
            ports.choose(["a"], set(), free=lambda port: False, candidates=range(20000, 20003))

    def test_a_listening_socket_is_not_free(self):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            port = listener.getsockname()[1]
            self.assertFalse(ports.is_free(port))
        self.assertTrue(ports.is_free(port))


class Settling(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.home = Path(temporary.name)
        patched = mock.patch.dict(os.environ, {"VARTA_CACHE": str(self.home / "cache")})
        patched.start()
        self.addCleanup(patched.stop)

    def folder(self, name):
        made = StackFolder.at(str(self.home / name))
        made.root.mkdir()
        return made

    def test_a_folder_keeps_its_ports(self):
        folder = self.folder("a")
        first = ports.settle(folder, "auto", False)
        self.assertEqual(ports.settle(folder, None, True), first)
        self.assertEqual(ports.known(folder), first)

    def test_two_folders_share_none(self):
        one = ports.settle(self.folder("a"), "auto", False)
        two = ports.settle(self.folder("b"), "auto", False)
        self.assertFalse(set(one.values()) & set(two.values()))

    def test_fixed_ports_are_the_documented_ones(self):
        self.assertEqual(ports.settle(self.folder("a"), "fixed", False), ports.FIXED)

    def test_the_mode_changes_only_while_nothing_runs(self):
        folder = self.folder("a")
        ports.settle(folder, "auto", False)
        with self.assertRaises(StackError):
            ports.settle(folder, "fixed", True)
        self.assertEqual(ports.settle(folder, "fixed", False), ports.FIXED)

    def test_a_removed_folder_gives_its_claim_back(self):
        gone = self.folder("gone")
        ports.settle(gone, "auto", False)
        gone.ports.unlink()
        ports.settle(self.folder("a"), "auto", False)
        claims = json.loads((self.home / "cache" / "port-claims.json").read_text())
        self.assertEqual(list(claims), [str(self.home / "a")])


if __name__ == "__main__":
    unittest.main()

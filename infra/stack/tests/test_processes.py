"""Only the process that was started is ever signalled."""

import os
import signal
import subprocess
import sys
import tempfile
import unittest
from dataclasses import replace
from pathlib import Path

from varta_stack import processes, waiting

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)",
]


class PidFile(unittest.TestCase):
    def test_what_is_written_is_read_back(self):
        process = processes.Process(42, 123456, "boot")
        self.assertEqual(processes.parse(processes.render(process)), process)

    def test_its_first_line_is_the_pid_alone(self):
        self.assertEqual(processes.render(processes.Process(42, 1, "boot")).splitlines()[0], "42")

    def test_a_pid_without_proof_is_nobody(self):
        for text in ("", "42\n", "42\nstart_ticks=x boot_id=b\n", "42\nstart_ticks=1\n", "x\nstart_ticks=1 boot_id=b\n"):
            self.assertIsNone(processes.parse(text), text)


class Verification(unittest.TestCase):
    def test_we_are_alive(self):
        self.assertTrue(processes.of_pid(os.getpid()).is_alive())

    def test_another_start_time_is_another_process(self):
        ours = processes.of_pid(os.getpid())
        self.assertFalse(replace(ours, start_ticks=ours.start_ticks - 1).is_alive())

    def test_another_boot_is_another_process(self):
        ours = processes.of_pid(os.getpid())
        self.assertFalse(replace(ours, boot_id="an earlier boot").is_alive())

    def test_a_stranger_with_the_same_pid_is_left_alone(self):
        child = subprocess.Popen(SLEEP)
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        real = processes.of_pid(child.pid)
        processes.kill(replace(real, start_ticks=real.start_ticks + 1))
        self.assertTrue(real.is_alive())

    def test_a_zombie_is_dead(self):
        child = subprocess.Popen(["true"])
        self.addCleanup(child.wait)
        self.assertTrue(waiting.until(lambda: processes.of_pid(child.pid) is None, 10))


class Stopping(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)

    def spawn(self, command):
        launch = processes.Launch(command)
        child = processes.spawn(launch, self.folder, self.folder / "log", self.folder / "pid")
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        return child, processes.running(self.folder / "pid")

    def test_it_leads_a_group_of_its_own_in_our_session(self):
        child, process = self.spawn(SLEEP)
        self.assertEqual(process.pid, child.pid)
        self.assertEqual(os.getpgid(child.pid), child.pid)
        self.assertEqual(os.getsid(child.pid), os.getsid(0))

    def test_asking_is_enough_for_most(self):
        _, process = self.spawn(SLEEP)
        self.assertTrue(processes.stop(process, signal.SIGTERM, 10))
        self.assertIsNone(processes.running(self.folder / "pid"))

    def test_the_deaf_are_killed_at_the_deadline(self):
        _, process = self.spawn(STUBBORN)
        self.assertTrue(waiting.until(lambda: "deaf" in (self.folder / "log").read_text(), 10))
        self.assertFalse(processes.stop(process, signal.SIGTERM, 0.2))
        self.assertFalse(process.is_alive())


if __name__ == "__main__":
    unittest.main()

"""What can be typed."""

import argparse
from typing import List

from . import commands, report
from .errors import StackError
from .places import StackFolder
from .servers import ALL

DESCRIPTION = "Real servers for Varta, natively on loopback: " + ", ".join(ALL) + "."
EPILOG = """\
Downloads and builds are kept in $VARTA_CACHE (default ~/.cache/varta).
DIR/stack.env and DIR/stack.json hold addresses and secrets; DIR/SERVER/log the logs.
VARTA_MQTT_MAX_QUEUED  messages that Mosquitto keeps for an absent client (default 100000)
VARTA_MQTT_MUTUAL_TLS  1: the TLS listener asks for a client certificate
exit codes: 0 done, 1 failed (said why), 2 wrong usage, 3 status: not everything runs
"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="stack", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    one = verbs.add_parser("install", help="fetch or build what is missing; starts nothing")
    one.add_argument("servers", nargs="*", metavar="SERVER", help=f"default all; also: {commands.BUILD_DEPS}")

    one = _with_folder(verbs.add_parser("up", help="install what is missing, start, wait until all answer"))
    one.add_argument("--ports", choices=("auto", "fixed"), help="auto: free ones, kept in DIR (default)")
    one.add_argument("--wait", metavar="A,B,…", help="wait only for these; the others go on in the background")
    one.add_argument("servers", nargs="*", metavar="SERVER", help="default all")

    one = _with_folder(verbs.add_parser("down", help="stop what was started in DIR, and nothing else"))
    one.add_argument("servers", nargs="*", metavar="SERVER", help="default all")

    _with_folder(verbs.add_parser("status", help="what runs where"))
    _with_folder(verbs.add_parser("wipe", help="remove data, ports and secrets; refused while anything runs"))
    for verb, help_text in (
        ("start", "start again on the same ports and data"),
        ("restart", "stop and start"),
        ("kill", "SIGKILL, for crash tests"),
    ):
        one = _with_folder(verbs.add_parser(verb, help=help_text))
        one.add_argument("server", choices=tuple(ALL), metavar="SERVER")
    return top


def main(arguments: List[str]) -> int:
    typed = parser().parse_args(arguments)
    try:
        return _run(typed) or 0
    except StackError as error:
        report.complaint(f"stack: {error}")
        return 1
    except KeyboardInterrupt:
        report.complaint("stack: interrupted; servers that were started go on until: stack down")
        return 130


def _run(typed: argparse.Namespace) -> "int | None":
    if typed.verb == "install":
        return commands.install(typed.servers)
    folder = StackFolder.at(typed.dir)
    if typed.verb == "up":
        wait_for = [name for name in typed.wait.split(",") if name] if typed.wait is not None else None
        return commands.up(folder, typed.servers, typed.ports, wait_for)
    if typed.verb == "down":
        return commands.down(folder, typed.servers)
    if typed.verb in ("start", "restart", "kill"):
        return getattr(commands, typed.verb)(folder, typed.server)
    return getattr(commands, typed.verb)(folder)


def _with_folder(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    command.add_argument("--dir", required=True, metavar="DIR", help="the stack's own folder")
    return command

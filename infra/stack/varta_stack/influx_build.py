"""How influxd is built from the Go module proxy and the crates registry alone.

Three obstacles, each removed from outside the sources:
* its go.mod holds a `replace`, which `go install` refuses for a main module from
  elsewhere: a wrapper module repeats it;
* its query language Flux is Rust, linked through a pkg-config of InfluxData's own
  that runs cargo;
* that Rust is pinned to an old toolchain and denies warnings: the toolchain that
  is installed is named explicitly, and a compiler wrapper caps the lints.
"""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Dict, Optional

from . import apt, files, tools

PKG_CONFIG_VERSION = "v0.2.14"
PACKAGE = "github.com/influxdata/influxdb/v2/cmd/influxd"

_GO_MOD = """\
module influxd-build

go 1.24

replace github.com/nats-io/nats-streaming-server v0.11.2 => github.com/influxdata/nats-streaming-server v0.11.3-0.20201112040610-c277f7560803
"""

_CAP_LINTS = '#!/bin/sh\nrustc="$1"\nshift\nexec "$rustc" "$@" --cap-lints=warn\n'


def build(version: str, target: Path) -> None:
    """Put `influxd` into `target`. Minutes when cold; Go's and Cargo's own caches make repeats faster."""
    go = tools.require("go", "to build InfluxDB", "Install Go 1.24 or newer.")
    tools.require("cargo", "to build InfluxDB's query language", "Install Rust 1.95 or newer.")
    _ensure_c_toolchain()
    work = target / "work"
    work.mkdir()
    files.write(work / "go.mod", _GO_MOD)
    files.write(work / "rustc-cap-lints", _CAP_LINTS, mode=0o755)
    environment = _environment(work)
    tools.run(tools.gently([go, "install", f"github.com/influxdata/pkg-config@{PKG_CONFIG_VERSION}"]), work, environment)
    environment["PKG_CONFIG"] = str(work / "bin" / "pkg-config")
    tools.run(tools.gently([go, "get", "-tool", f"{PACKAGE}@v{version}"]), work, environment)
    tools.run(tools.gently([go, "build", "-o", str(target / "influxd"), PACKAGE]), work, environment)
    shutil.rmtree(work)


def _environment(work: Path) -> Dict[str, Optional[str]]:
    """Nothing of the caller's own build settings may leak into this build."""
    return {
        "GOBIN": str(work / "bin"),
        "GOFLAGS": "-mod=mod",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "CGO_ENABLED": "1",
        "RUSTUP_TOOLCHAIN": toolchain(),
        "RUSTC_WRAPPER": str(work / "rustc-cap-lints"),
        "RUSTC_WORKSPACE_WRAPPER": None,
        "RUSTFLAGS": None,
        "CARGO_ENCODED_RUSTFLAGS": None,
        "CARGO_TARGET_DIR": None,
        "CARGO_BUILD_TARGET": None,
        "MAKEFLAGS": None,
    }


def toolchain() -> Optional[str]:
    """The installed toolchain's name; None where Rust did not come by rustup and nothing needs naming."""
    rustup = shutil.which("rustup")
    if not rustup:
        return None
    named = os.environ.get("RUSTUP_TOOLCHAIN")
    if named:
        return named
    active = subprocess.run([rustup, "show", "active-toolchain"], capture_output=True, text=True, check=False, cwd="/")
    words = active.stdout.split()
    return words[0] if active.returncode == 0 and words else None


def _ensure_c_toolchain() -> None:
    wanted = []
    if not (shutil.which("cc") or shutil.which("gcc")):
        wanted.append("build-essential")
    if not shutil.which("pkg-config"):
        wanted.append("pkg-config")
    apt.install(wanted)

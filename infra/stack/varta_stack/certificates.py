"""A certificate authority of our own for loopback, made with the openssl program."""

import shutil
from pathlib import Path

from . import files, tools

YEARS = 10 * 365
_SERVER_EXTENSIONS = """\
subjectAltName=IP:127.0.0.1,DNS:localhost
extendedKeyUsage=serverAuth
basicConstraints=CA:FALSE
"""
_CLIENT_EXTENSIONS = "extendedKeyUsage=clientAuth\nbasicConstraints=CA:FALSE\n"


def ensure(home: Path) -> None:
    """`ca.crt`, `server.crt`, `client.crt` and their keys; all of them, or the folder is not there."""
    if home.is_dir():
        return
    draft = home.with_name(home.name + ".new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    _authority(draft)
    _signed(draft, "server", "localhost", _SERVER_EXTENSIONS)
    _signed(draft, "client", "agent", _CLIENT_EXTENSIONS)
    for key in draft.glob("*.key"):
        key.chmod(0o600)
    draft.rename(home)


def _authority(home: Path) -> None:
    tools.run(
        ["openssl", "req", "-x509", "-new", "-sha256", "-days", str(YEARS), *_ec_key(home / "ca.key")]
        + ["-subj", "/CN=Varta development CA", "-out", str(home / "ca.crt")]
        + ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    )


def _signed(home: Path, name: str, common_name: str, extensions: str) -> None:
    request, extension_file = home / f"{name}.csr", home / f"{name}.ext"
    files.write(extension_file, extensions)
    tools.run(
        ["openssl", "req", "-new", *_ec_key(home / f"{name}.key")]
        + ["-subj", f"/CN={common_name}", "-out", str(request)]
    )
    tools.run(
        ["openssl", "x509", "-req", "-sha256", "-days", str(YEARS), "-extfile", str(extension_file)]
        + ["-CA", str(home / "ca.crt"), "-CAkey", str(home / "ca.key"), "-CAcreateserial"]
        + ["-in", str(request), "-out", str(home / f"{name}.crt")]
    )
    request.unlink()
    extension_file.unlink()


def _ec_key(path: Path) -> "list[str]":
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(path)]

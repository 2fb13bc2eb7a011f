"""Who can reach a server, and what others can see of it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from puller.errors import ServeFailed
from puller.units import MIB
from tests.integration.serve.archive import CONTENT, PASSWORD, SIZE, Archive, read
from tests.lab.s3server import free_ports


def test_neither_password_nor_keys_can_be_seen(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULLER_PASSWORD", PASSWORD)
    monkeypatch.setenv("PULLER_LUKS_PASSPHRASE", "of the guest")
    keys = archive.repository.keys
    assert keys.private is not None
    secrets = [
        PASSWORD.encode(),
        b"of the guest",
        keys.private.hex().encode(),
        keys.metadata_key.hex().encode(),
    ]
    with archive.serve() as server:
        process = Path(f"/proc/{server.pid}")
        seen = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        assert b"plugin.py" in seen
        assert not [secret for secret in secrets if secret in seen]
        assert server.socket is not None
        assert server.socket.parent.stat().st_mode & 0o77 == 0


def test_a_port_on_loopback(archive: Archive) -> None:
    port = next(free_ports())
    with archive.serve("vda", port=port) as server:
        assert server.uri() == f"nbd://127.0.0.1:{port}/vda"
        assert read(server.uri(), MIB, 10) == CONTENT[MIB : MIB + 10]
        with pytest.raises(ServeFailed, match="ddress already in use"):
            archive.serve("vda", port=port)


def _certificates(folder: Path) -> Path:
    """A CA, a server named localhost, and a client, as nbdkit-tls(1) requires."""
    folder.mkdir()

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    ca = ["-keyout", "ca-key.pem", "-out", "ca-cert.pem", "-subj", "/CN=ca"]
    openssl("req", "-x509", *key, *ca)
    for name in ("server", "client"):
        (folder / "names").write_text("subjectAltName=DNS:localhost\n")
        openssl("req", *key, "-keyout", f"{name}-key.pem", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signing = ["-CA", "ca-cert.pem", "-CAkey", "ca-key.pem", "-CAcreateserial", "-extfile", "names"]
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}-cert.pem", *signing)
    return folder


def test_tls_demands_a_certificate_of_the_same_ca(archive: Archive, tmp_path: Path) -> None:
    folder, others = _certificates(tmp_path / "ours"), _certificates(tmp_path / "theirs")
    port = next(free_ports())
    with archive.serve(port=port, tls_certificates=str(folder)) as server:
        assert server.uri().startswith("nbds://")
        sizes = {}
        for name, where in (
            ("ours", f"?tls-certificates={folder}"),
            ("theirs", f"?tls-certificates={others}"),
        ):
            words = ["nbdinfo", "--size", f"nbds://localhost:{port}/vda{where}"]
            sizes[name] = subprocess.run(words, capture_output=True, text=True, check=False).stdout
        # Who trusts this server, and is not trusted by it:
        shutil.copy(folder / "ca-cert.pem", others / "ca-cert.pem")
        words = ["nbdinfo", "--size", f"nbds://localhost:{port}/vda?tls-certificates={others}"]
        assert subprocess.run(words, capture_output=True, check=False).returncode
        plain = ["nbdinfo", "--size", f"nbd://localhost:{port}/vda"]
        assert subprocess.run(plain, capture_output=True, check=False).returncode
    assert sizes == {"ours": f"{SIZE}\n", "theirs": ""}

"""The client's certificates, before anything is begun."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from puller.errors import UsageError
from puller.host.certificates import check_certificates
from tests.lab.certificates import DAY, NOW, Authority


@pytest.fixture(scope="module")
def authority() -> Authority:
    """The authority of the right certificates."""
    return Authority("Backup CA")


def test_certificates_in_order(authority: Authority, tmp_path: Path) -> None:
    authority.issue_client(tmp_path)
    check_certificates(tmp_path)
    own = (tmp_path / "ca-cert.pem").read_bytes()
    Authority("Another CA").issue_server(tmp_path / "other", "kvm1")
    (tmp_path / "ca-cert.pem").write_bytes((tmp_path / "other" / "ca-cert.pem").read_bytes() + own)
    check_certificates(tmp_path)  # one of several authorities


def _of_another(folder: Path) -> None:
    Authority("Another CA").issue_server(folder, "kvm1")


def _with_another_key(folder: Path) -> None:
    Authority("Backup CA").issue_client(folder / "other")
    (folder / "client-key.pem").write_bytes((folder / "other" / "client-key.pem").read_bytes())


FAULTS: dict[str, Callable[[Path], object]] = {
    r"client-cert.pem was not issued by the authority in ca-cert.pem": _of_another,
    r"client-key.pem is not the key of client-cert.pem": _with_another_key,
    r"cannot read .*/client-key.pem: No such file": lambda folder: (folder / "client-key.pem").unlink(),
    r"ca-cert.pem holds no certificate": lambda folder: (folder / "ca-cert.pem").write_text("x"),
    r"client-cert.pem holds no certificate": lambda folder: (folder / "client-cert.pem").write_text("x"),
    r"client-key.pem holds no key": lambda folder: (folder / "client-key.pem").write_text("x"),
}


@pytest.mark.parametrize("message", FAULTS)
def test_what_is_wrong_is_said(authority: Authority, tmp_path: Path, message: str) -> None:
    authority.issue_client(tmp_path)
    FAULTS[message](tmp_path)
    with pytest.raises(UsageError, match=message):
        check_certificates(tmp_path)


def test_a_certificate_that_has_expired(authority: Authority, tmp_path: Path) -> None:
    authority.issue_client(tmp_path, NOW - DAY)
    with pytest.raises(UsageError, match=r"client-cert.pem expired on \d{4}-"):
        check_certificates(tmp_path)

"""A directory of certificates for TLS as a client, checked before anything is begun.

The names of the files are those that QEMU and libnbd use.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from puller.errors import UsageError

AUTHORITY, CERTIFICATE, KEY = "ca-cert.pem", "client-cert.pem", "client-key.pem"

_STEPS = "See 'Certificates step by step' in docs/hosts.md."


def check_certificates(folder: Path) -> None:
    """Raise UsageError unless ``folder`` holds a valid certificate, its key and its authority."""
    authorities = [_certificate(folder / AUTHORITY, text) for text in _blocks(folder / AUTHORITY)]
    own = _certificate(folder / CERTIFICATE, _read(folder / CERTIFICATE))
    _check_key(folder / KEY, own)
    for path, certificate in ((folder / AUTHORITY, authorities[0]), (folder / CERTIFICATE, own)):
        _check_dates(path, certificate)
    if not any(_issued(own, authority) for authority in authorities):
        raise UsageError(
            f"{folder / CERTIFICATE} was not issued by the authority in {AUTHORITY}", advice=_STEPS
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", advice=_STEPS) from error


def _blocks(path: Path) -> list[bytes]:
    """Return the certificates of a file, which may hold several authorities."""
    end = b"-----END CERTIFICATE-----"
    found = [block + end for block in _read(path).split(end)[:-1]]
    if not found:
        raise UsageError(f"{path} holds no certificate", advice=_STEPS)
    return found


def _certificate(path: Path, text: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(text)
    except ValueError as error:
        raise UsageError(f"{path} holds no certificate", advice=_STEPS) from error


def _check_key(path: Path, certificate: x509.Certificate) -> None:
    text = _read(path)
    try:
        public = load_pem_private_key(text, None).public_key()
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path} holds no key without a passphrase", advice=_STEPS) from error
    own, named = (
        key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        for key in (public, certificate.public_key())
    )
    if own != named:
        raise UsageError(f"{path} is not the key of {CERTIFICATE}", advice=_STEPS)


def _check_dates(path: Path, certificate: x509.Certificate) -> None:
    now = datetime.now(UTC)
    if now > certificate.not_valid_after_utc:
        day = certificate.not_valid_after_utc.date()
        raise UsageError(f"{path} expired on {day}", advice="Issue a new certificate. " + _STEPS)
    if now < certificate.not_valid_before_utc:
        day = certificate.not_valid_before_utc.date()
        raise UsageError(f"{path} is not valid before {day}", advice="Check the clock of this host.")


def _issued(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True

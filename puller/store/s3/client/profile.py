"""puller's own settings of the S3 client, where the environment and the AWS profile set nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from botocore.config import Config

if TYPE_CHECKING:
    from botocore.session import Session

_RETRIES = {"retry_mode": ("mode", "standard"), "max_attempts": ("total_max_attempts", 2)}
"""One retry, for a connection that the server has closed meanwhile; RetryingStore does the rest."""

_CHECKSUMS = ("request_checksum_calculation", "response_checksum_validation")
"""Their default, a CRC-32 of every body, is refused by servers that do not know the header, and costs
processor time; what puller stores is authenticated by itself."""


def own_settings(session: Session) -> Config:
    """Return puller's settings, without those that the user has set. Raises ProfileNotFound."""
    profile = session.get_scoped_config()
    retries = {name: value for key, (name, value) in _RETRIES.items() if not _is_set(profile, key)}
    options: dict[str, Any] = {key: "when_required" for key in _CHECKSUMS if not _is_set(profile, key)}
    if retries:
        options["retries"] = retries
    if not _section(profile).get("signature_version"):
        options["signature_version"] = "s3v4"
    return Config(connect_timeout=10, read_timeout=60, tcp_keepalive=True, **options)


def decides_signing(session: Session) -> bool:
    """Return whether the user has configured the signing of bodies."""
    return "payload_signing_enabled" in _section(session.get_scoped_config())


def _is_set(profile: Mapping[str, Any], key: str) -> bool:
    return bool(os.environ.get(f"AWS_{key.upper()}") or profile.get(key))


def _section(profile: Mapping[str, Any]) -> Mapping[str, Any]:
    section = profile.get("s3")
    return section if isinstance(section, Mapping) else {}

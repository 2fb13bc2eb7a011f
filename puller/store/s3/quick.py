"""What makes botocore's clients quick: the models of AWS's services, and the times in answers."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Literal

import msgspec
from botocore.loaders import JSONFileLoader, Loader
from botocore.session import Session
from botocore.utils import parse_timestamp

SERVICE: Literal["s3"] = "s3"

_PARSERS: tuple[Callable[[str], datetime], ...] = (datetime.fromisoformat, parsedate_to_datetime)
"""Of times in listings, and in headers."""


class _ModelFiles(JSONFileLoader):
    """Reads the files with a faster decoder."""

    def load_file(self, file_path: str) -> Any:
        """Return the model at this path without extension, or None if there is none."""
        for extension, decompress in ((".json", bytes), (".json.gz", gzip.decompress)):
            try:
                content = Path(file_path + extension).read_bytes()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                continue
            return msgspec.json.decode(decompress(content))
        return None


class _Models(Loader):
    """Loads the models of S3 without a look at the directories of all other services.

    Those that give credentials, such as ``sts``, are found as botocore finds them.
    """

    def __init__(self, search_paths: list[str]) -> None:
        super().__init__(search_paths, _ModelFiles(), include_default_search_paths=False)
        self._others = Loader(search_paths, _ModelFiles(), include_default_search_paths=False)

    def list_available_services(self, type_name: str) -> list[str]:
        """Return the one service that this loader looks for."""
        return [SERVICE]

    def load_service_model(self, service_name: str, type_name: str, api_version: str | None = None) -> Any:
        """Return a model. Raises UnknownServiceError, DataNotFoundError."""
        if service_name != SERVICE:
            return self._others.load_service_model(service_name, type_name, api_version)
        return super().load_service_model(service_name, type_name, api_version)


def time_of(text: Any) -> datetime:
    """Parse a time of an answer: quickly what S3 sends, anything else as botocore does. Raises ValueError.

    botocore tries many formats, which takes longer than all else of an entry in a listing. A time without a
    zone is in UTC: S3 has no other times, and botocore would leave it to the zone of this host.
    """
    for parse in _PARSERS if isinstance(text, str) else ():
        try:
            time = parse(text)
        except (TypeError, ValueError):
            continue
        if time.tzinfo is not None:
            return time
    time = parse_timestamp(text)
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def make_quick(session: Session) -> None:
    """Let the clients that ``session`` makes from now on load models and read answers quickly."""
    session.register_component("data_loader", _Models(session.get_component("data_loader").search_paths))
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=time_of)

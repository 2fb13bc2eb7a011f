"""The models of AWS's services, which botocore keeps as JSON: loaded in a fraction of its own time."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import msgspec
from botocore.loaders import JSONFileLoader, Loader
from botocore.session import Session

SERVICE = "s3"


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


def load_models_fast(session: Session) -> None:
    """Let the clients of ``session`` load their models so."""
    session.register_component("data_loader", _Models(session.get_component("data_loader").search_paths))

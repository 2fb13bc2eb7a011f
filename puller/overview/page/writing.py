"""The file that holds the page."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from puller.errors import OutputFailed


def replace_page(path: Path, text: str) -> None:
    """Replace the page as a whole, because a browser or web server may be reading the older one.

    Raises OutputFailed.
    """
    fresh = None
    try:
        descriptor, fresh = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)
        Path(fresh).rename(path)
    except OSError as error:
        raise OutputFailed(
            f"cannot write {path}: {error.strerror}", advice="Name a file in a writable directory."
        ) from error
    finally:
        if fresh is not None:
            Path(fresh).unlink(missing_ok=True)

"""The screen of a drill's machine as a small PNG."""

from __future__ import annotations

import io
from contextlib import suppress

from puller.repository.records.proofs import LARGEST_SCREENSHOT

_PNG = b"\x89PNG\r\n\x1a\n"
_SIZES = (1280, 1024, 800, 640, 320)
"""Widths that are tried until the picture is small enough."""


def png_of(picture: bytes | None) -> bytes | None:
    """Return a PNG or PPM as PNG of at most ``LARGEST_SCREENSHOT`` bytes; None if it cannot be read."""
    if not picture:
        return None
    if picture.startswith(_PNG) and len(picture) <= LARGEST_SCREENSHOT:
        return picture
    from PIL import Image

    # The guest chooses the size, and Pillow raises many kinds of errors for what it does not like.
    with (
        suppress(OSError, ValueError, SyntaxError, Image.DecompressionBombError),
        Image.open(io.BytesIO(picture), formats=["PNG", "PPM"]) as opened,
    ):
        for width in _SIZES:
            small = opened.convert("RGB")
            small.thumbnail((width, width))
            output = io.BytesIO()
            small.quantize(256).save(output, "PNG", optimize=True)
            if output.tell() <= LARGEST_SCREENSHOT:
                return output.getvalue()
    return None

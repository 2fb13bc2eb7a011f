"""Deletion of what is not needed any more, in a store that may refuse it for a time or for ever (WORM)."""

from __future__ import annotations

from collections.abc import Callable

from puller.errors import StoreDenied


class Disposal:
    """``refusal`` is the last error of a store that refused to delete; None if it never did."""

    def __init__(self) -> None:
        self.refusal: StoreDenied | None = None

    def attempt(self, delete: Callable[[], None]) -> bool:
        """Call ``delete``; tell whether the store let all of it go. What stays is harmless, by the format.

        Raises StoreError, but for a refusal.
        """
        try:
            delete()
        except StoreDenied as error:
            self.refusal = error
            return False
        return True

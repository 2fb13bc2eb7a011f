"""Deletion of unneeded objects, in a store that may refuse it for a time or forever (WORM)."""

from __future__ import annotations

from collections.abc import Callable

from puller.errors import StoreDenied


class Disposal:
    """``refusal`` is the last error of a store that refused to delete; None if it never did."""

    def __init__(self) -> None:
        self.refusal: StoreDenied | None = None

    def attempt(self, delete: Callable[[], None]) -> bool:
        """Call ``delete``; return whether the store deleted everything. Objects that stay are harmless.

        Raises StoreError, except for a refusal.
        """
        try:
            delete()
        except StoreDenied as error:
            self.refusal = error
            return False
        return True

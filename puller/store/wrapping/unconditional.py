"""A store whose server does not honour conditional puts: the key is looked up first."""

from __future__ import annotations

from puller.errors import ObjectExists
from puller.store.base import Body
from puller.store.wrapping.wrapped import WrappedStore


class UnconditionalStore(WrappedStore):
    """A wrapper of ``store`` whose ``put_new`` does without the condition, which its server lacks.

    Backblaze B2, for example, answers ``If-None-Match`` with 501. Two concurrent puts of one key may both
    succeed, which ``Store`` forbids: see ``puller.store.probe.UNCONDITIONAL``.
    """

    def put_new(self, key: str, body: Body) -> None:
        """See ``Store.put_new``; concurrent calls are not separated."""
        if self.exists(key):
            raise ObjectExists(f"{key} exists already in {self.url}")
        self.put(key, body)

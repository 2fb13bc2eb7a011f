"""A store whose server does not honour a put that asks for absence: it is looked at first."""

from __future__ import annotations

from puller.errors import ObjectExists, ObjectNotFound
from puller.store.base import Body
from puller.store.wrapped import WrappedStore


class UnconditionalStore(WrappedStore):
    """``store``, of which ``put_new`` asks for nothing that its server may refuse or pass over.

    Backblaze B2, for one, answers ``If-None-Match`` with 501. Of two that put one key at the same moment both
    may succeed, which ``Store`` forbids: see ``puller.store.probe.UNCONDITIONAL``.
    """

    def put_new(self, key: str, body: Body) -> None:
        """See ``Store.put_new``, but for what several do at once."""
        try:
            self.stat(key)
        except ObjectNotFound:
            self.put(key, body)
        else:
            raise ObjectExists(f"{key} is there already in {self.url}")

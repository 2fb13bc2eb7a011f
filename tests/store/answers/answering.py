"""Requests to a server whose answers a test writes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from puller.errors import PullerError
from puller.store.base import Store
from puller.store.s3.s3 import S3Store

Connect = Callable[[str], S3Store]


def raised(operation: Callable[[Store], object], store: Store) -> PullerError:
    with pytest.raises(PullerError) as caught:
        operation(store)
    assert caught.value.advice
    return caught.value


@contextmanager
def taking_at_most(limit: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()

"""Answers that no AWS gives: missing fields, and sizes that are lies."""

from __future__ import annotations

from functools import partial

import pytest

from puller.errors import DamagedData, StoreError, UnsupportedByStore
from puller.store.s3.s3 import S3Store
from tests.store.answers.answering import Connect, raised, taking_at_most
from tests.store.scripted import HEADERS, OPERATIONS, Answer, scripted_server


class TestSizes:
    """No more is read than was asked for, whatever is announced."""

    @pytest.mark.parametrize("chunked", [False, True])
    def test_more_than_was_asked_for(self, at: Connect, chunked: bool) -> None:
        body = bytes(64 << 20)
        part = {**HEADERS, "Content-Range": f"bytes 0-{len(body) - 1}/{len(body)}"}
        with scripted_server(Answer(206, body, part, chunked=chunked)) as server:
            store = at(server.endpoint)
            with taking_at_most(8 << 20):
                self._refuse(store)

    @staticmethod
    def _refuse(store: S3Store) -> None:
        with pytest.raises(DamagedData, match="but at most 65536 are plausible"):
            store.get("a", max_size=1 << 16)
        for read in (partial(store.get_range, "a", 0), partial(store.get_tail, "a")):
            with pytest.raises(UnsupportedByStore, match="65536"):
                read(1 << 16)

    def test_the_whole_in_place_of_a_part_is_not_read(self, at: Connect) -> None:
        with scripted_server(Answer(200, bytes(64 << 20), HEADERS)) as server:
            store = at(server.endpoint)
            with taking_at_most(8 << 20), pytest.raises(UnsupportedByStore, match="with the whole"):
                store.get_range("a", 0, 1 << 16)

    def test_no_size_is_announced(self, at: Connect) -> None:
        part = {**HEADERS, "Content-Range": "bytes 0-6/7"}
        with scripted_server(Answer(206, b"content", part, chunked=True)) as server:
            store = at(server.endpoint)
            assert store.get("a") == b"content"
            assert store.get("a", max_size=7) == b"content"
            assert store.get_range("a", 0, 7) == b"content"
            content, info = store.get_tail("a", 7)
            assert (content, info.size) == (b"content", 7)


class TestMissingFields:
    @pytest.mark.parametrize(
        "body",
        [
            b"<Error><Code>InvalidRange</Code></Error>",
            b"<Error><Code>InvalidArgument</Code><Message/></Error>",
            b"<Error/>",
            b"<html><body>no</body></html>",
            b"not <xml",
            b"",
        ],
    )
    @pytest.mark.parametrize("status", [400, 403, 409, 417, 501, 503])
    def test_an_error_that_says_little(self, at: Connect, status: int, body: bytes) -> None:
        """Ceph's RADOS Gateway sends no message; what stands before a server may send no XML."""
        with scripted_server(Answer(status, body, {"Content-Type": "application/xml"})) as server:
            store = at(server.endpoint)
            for operation in OPERATIONS.values():
                error = raised(operation, store)
                assert isinstance(error, StoreError)
                assert not error.message.endswith((": ", "()", "."))

    def test_an_error_of_a_deletion_that_says_nothing(self, at: Connect) -> None:
        body = b"<DeleteResult><Error><Key>prefix/a</Key></Error></DeleteResult>"
        with scripted_server(Answer(200, body)) as server:
            error = raised(OPERATIONS["delete"], at(server.endpoint))
        assert error.message.endswith("prefix/a: the server gives no reason")

    @pytest.mark.parametrize("body", [b"", b"<VersioningConfiguration/>", b"<Anything/>"])
    def test_a_bucket_that_is_not_described(self, at: Connect, body: bytes) -> None:
        """Swift and rclone answer some questions with nothing at all."""
        with scripted_server(Answer(200, body)) as server:
            bucket = at(server.endpoint).bucket
            assert bucket.lifecycle() == ()
            assert bucket.default_retention() is None
            assert bucket.keeps_versions() is False

    def test_a_bucket_whose_setup_is_refused_without_a_word(self, at: Connect) -> None:
        with scripted_server(Answer(400, b"<Error/>")) as server:
            bucket = at(server.endpoint).bucket
            for question in (bucket.lifecycle, bucket.default_retention, bucket.keeps_versions):
                with pytest.raises(StoreError):
                    question()

    @pytest.mark.parametrize("missing", sorted(HEADERS))
    def test_an_object_without_time_or_etag(self, at: Connect, missing: str) -> None:
        headers = {name: value for name, value in HEADERS.items() if name != missing}
        whole = {**headers, "Content-Range": "bytes 0-0/1"}
        with scripted_server(Answer(206, b"x", whole)) as server:
            store = at(server.endpoint)
            assert store.get("a") == b"x"
            assert store.get_range("a", 0, 1) == b"x"
            for operation in ("stat", "get_tail"):
                assert "sends no " in raised(OPERATIONS[operation], store).message

    def test_a_listing_without_times(self, at: Connect) -> None:
        entry = b"<Contents><Key>prefix/a</Key><Size>1</Size><ETag>1</ETag></Contents>"
        with scripted_server(Answer(200, b"<ListBucketResult>" + entry + b"</ListBucketResult>")) as server:
            assert "sends no time of a" in raised(OPERATIONS["list"], at(server.endpoint)).message

    @pytest.mark.parametrize("etag", [b"1", b"&quot;1&quot;"])
    def test_etags_of_listings_with_and_without_quotes(self, at: Connect, etag: bytes) -> None:
        """rclone's have none, unlike those of its other answers."""
        time = b"<LastModified>2026-11-23T05:00:00.000Z</LastModified>"
        entry = (
            b"<Contents><Key>prefix/a</Key><Size>1</Size><ETag>" + etag + b"</ETag>" + time + b"</Contents>"
        )
        with scripted_server(Answer(200, b"<ListBucketResult>" + entry + b"</ListBucketResult>")) as server:
            assert [info.etag for info in at(server.endpoint).list("")] == ['"1"']

    def test_a_listing_that_is_cut_and_does_not_say_how_to_go_on(self, at: Connect) -> None:
        """The client would take it for the end, and prune for all that there is."""
        body = b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>"
        with scripted_server(Answer(200, body)) as server:
            error = raised(OPERATIONS["list"], at(server.endpoint))
        assert "sends no token for the rest" in error.message

    def test_an_answer_that_is_not_xml(self, at: Connect) -> None:
        with scripted_server(Answer(200, b"not <xml")) as server:
            for operation in ("list", "delete"):
                assert isinstance(raised(OPERATIONS[operation], at(server.endpoint)), StoreError)

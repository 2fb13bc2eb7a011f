"""Answers that lack something, or that hold more or less than a range."""

from __future__ import annotations

import pytest

from puller.diagnosis.store import examine
from puller.errors import ObjectChanged, StoreDenied
from puller.repository import repository as repositories
from tests.store.differences.differing import Open, documented, refuse_long, when
from tests.store.scripted import Answer, Request
from tests.store.stub import Stub, key_of, operation, stub_server


class TestWordless:
    """Answers that lack what AWS sends."""

    def test_a_listing_has_no_etags_of_objects_that_are_deleted_meanwhile(self, opened: Open) -> None:
        etag_less = (
            b"<ListBucketResult>"
            + b"".join(
                b"<Contents><Key>kvm/" + key + b"</Key><Size>1</Size>"
                b"<LastModified>2026-11-23T05:00:00.000Z</LastModified></Contents>"
                for key in (b"gone", b"here")
            )
            + b"</ListBucketResult>"
        )
        with stub_server(when("ListObjectsV2", Answer(200, etag_less))) as stub:
            at = opened(stub)
            at.store.put("here", b"1")
            assert list(at.store.list("")) == [at.store.stat("here")]
            assert at.notices == []

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            (b"<Error><Code>AccessDenied</Code><RequestId>1</RequestId></Error>", "AccessDenied"),
            (b"<Error/>", "status 403 without an explanation"),
            (b"", "Forbidden (403)"),
        ],
    )
    def test_an_error_without_a_message(self, opened: Open, body: bytes, words: str) -> None:
        with (
            stub_server(when("PutObject", Answer(403, body))) as stub,
            pytest.raises(StoreDenied) as caught,
        ):
            opened(stub).store.put("a", b"")
        assert caught.value.message == f"cannot store a in bucket bucket at {stub.endpoint}: {words}"
        assert caught.value.advice.startswith("Allow s3:ListBucket, s3:GetObject")

    @pytest.mark.parametrize("body", [b"", b"<Error><Code>NoSuchKey</Code></Error>"])
    def test_a_repository_is_created_where_absence_has_no_message(self, opened: Open, body: bytes) -> None:
        def quirk(stub: Stub, request: Request) -> Answer | None:
            return Answer(404, body) if stub.is_absent(request) else None

        with stub_server(quirk) as stub:
            repository = repositories.create(opened(stub).retrying, None)
            assert repositories.open_repository(opened(stub).retrying, None).id == repository.id

    @pytest.mark.parametrize("body", [b"", b"<LifecycleConfiguration/>"])
    def test_lifecycle_rules(self, opened: Open, body: bytes) -> None:
        with stub_server(when("lifecycle", Answer(200, body))) as stub:
            findings = {item.name: item for item in examine(opened(stub).store)}
        expected = "lifecycle rules for the repository's prefix: 0; none deletes or archives its objects"
        assert findings["lifecycle"].text == expected

    def test_a_lookup_without_size(self, opened: Open) -> None:
        def quirk(stub: Stub, request: Request) -> Answer | None:
            answer = stub.serve(request)
            sizeless = Answer(answer.status, headers=answer.headers, chunked=True)
            return sizeless if operation(request) == "HeadObject" else None

        with stub_server(quirk) as stub:
            it = opened(stub)
            it.store.put("a", b"content")
            assert [it.store.stat("a").size for _ in range(2)] == [7, 7]
        notice = "the server sends no sizes of objects that are looked up: they are taken from listings"
        assert it.notices == [documented(notice)]

    def test_a_part_without_its_place(self, opened: Open) -> None:
        def quirk(stub: Stub, request: Request) -> Answer | None:
            answer = stub.serve(request)
            answer.headers.pop("Content-Range", None)
            return answer

        with stub_server(quirk) as stub:
            it = opened(stub)
            it.store.put("a", b"content")
            assert it.store.get_range("a", 1, 3) == b"ont"
            assert it.store.get_tail("a", 100)[1].size == 7
            assert it.notices == []
            for _ in range(2):
                content, info = it.store.get_tail("a", 3)
                assert (content, info.size) == (b"ent", 7)
        notice = "the server sends no Content-Range: the sizes of objects are looked up"
        assert it.notices == [documented(notice)]


class TestTails:
    def test_the_whole_of_a_short_object(self, opened: Open) -> None:
        """Swift and moto."""

        def quirk(stub: Stub, request: Request) -> Answer | None:
            content = stub.objects.get(key_of(request), b"long enough")
            if "range" in request.headers and len(content) <= 7:
                del request.headers["range"]
            return None

        with stub_server(quirk) as stub:
            it = opened(stub)
            for content in (b"", b"content"):
                it.store.put("a", content)
                tail, info = it.store.get_tail("a", 100)
                assert (tail, info.size) == (content, len(content))
            it.store.put("a", b"a long object")
            assert it.store.get_tail("a", 6)[0] == b"object"
            assert it.store.get_range("a", 0, 6) == b"a long"
        assert it.notices == []

    def test_a_range_longer_than_the_object(self, opened: Open) -> None:
        with stub_server(refuse_long) as stub:
            it = opened(stub)
            it.store.put("a", b"content")
            it.store.put("b", b"")
            stub.requests.clear()
            for _ in range(2):
                content, info = it.store.get_tail("a", 100)
                assert (content, info.size) == (b"content", 7)
            assert stub.operations == ["GetObject", "HeadObject", "GetObject", "HeadObject", "GetObject"]
            assert it.store.get_tail("b", 100)[1].size == 0
            assert it.store.get_tail("a", 3)[0] == b"ent"
        notice = "the server refuses ranges longer than the object: the size is looked up first"
        assert it.notices == [documented(notice)]

    def test_an_object_replaced_in_between(self, opened: Open) -> None:
        def quirk(stub: Stub, request: Request) -> Answer | None:
            if "if-match" in request.headers:
                stub.objects[key_of(request)] = b"another"
                del request.headers["if-match"]  # which some servers ignore
            return refuse_long(stub, request)

        with stub_server(quirk) as stub:
            it = opened(stub)
            it.store.put("a", b"content")
            with pytest.raises(ObjectChanged, match=r"a in bucket .* was replaced while it was read"):
                it.store.get_tail("a", 100)

    def test_an_empty_object_is_no_difference(self, opened: Open) -> None:
        with stub_server() as stub:
            it = opened(stub)
            it.store.put("a", b"")
            assert it.store.get_tail("a", 100)[0] == b""
        assert it.notices == []

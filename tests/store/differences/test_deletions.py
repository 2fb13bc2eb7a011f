"""Servers that refuse to delete several objects in one request."""

from __future__ import annotations

import pytest

from puller.errors import StoreDenied, StoreError
from puller.store.objectlock import ObjectVersion
from tests.store.differences.differing import ONE_BY_ONE, Open, documented, when
from tests.store.scripted import Answer, Request, s3_error
from tests.store.stub import Stub, key_of, operation, stub_server


class TestDeletions:
    @pytest.mark.parametrize(
        "answer",
        [
            s3_error(403, "AccessDenied", ""),
            Answer(403),
            s3_error(501, "NotImplemented"),
            s3_error(405, "MethodNotAllowed"),
            s3_error(400, "InvalidArgument"),
            Answer(404),
        ],
        ids=["denied", "wordless", "501", "405", "400", "404"],
    )
    def test_one_by_one(self, opened: Open, answer: Answer) -> None:
        with stub_server(when("DeleteObjects", answer)) as stub:
            it = opened(stub)
            for names in (["a", "b", "absent"], ["c"]):
                for name in ("a", "b", "c"):
                    it.store.put(name, b"")
                it.store.delete(names)
                assert not {f"kvm/{name}" for name in names} & set(stub.objects)
            assert stub.operations.count("DeleteObjects") == 1
        assert it.notices == [documented(ONE_BY_ONE)]

    def test_all_denied(self, opened: Open) -> None:
        def quirk(stub: Stub, request: Request) -> Answer | None:
            return s3_error(403, "AccessDenied") if operation(request).startswith("Delete") else None

        with stub_server(quirk) as stub:
            it = opened(stub)
            with pytest.raises(StoreDenied) as caught:
                it.store.delete(["a", "b"])
        where = f"bucket bucket at {stub.endpoint}"
        assert caught.value.message == f"cannot delete objects in {where}: Something (AccessDenied)"
        assert it.notices == []

    def test_some_denied(self, opened: Open) -> None:
        def quirk(stub: Stub, request: Request) -> Answer | None:
            batch = operation(request) == "DeleteObjects"
            locked = operation(request) == "DeleteObject" and key_of(request) == "kvm/locked"
            return s3_error(403, "AccessDenied", "It is locked.") if batch or locked else None

        with stub_server(quirk) as stub:
            it = opened(stub)
            for name in ("locked", "free"):
                it.store.put(name, b"")
            with pytest.raises(StoreDenied, match=r"kvm/locked: It is locked \(AccessDenied\)"):
                it.store.delete(["locked", "free"])
            assert list(stub.objects) == ["kvm/locked"]
            it.store.put("free", b"")
        assert it.notices == [ONE_BY_ONE]

    def test_versions(self, opened: Open) -> None:
        """Single versions are deleted where Object Lock keeps some of them."""
        versions = [ObjectVersion("a", number, 0, 0.0) for number in ("1", "locked", "3")]

        def quirk(stub: Stub, request: Request) -> Answer | None:
            denied = operation(request) == "DeleteObjects" or "versionId=locked" in request.path
            return s3_error(403, "AccessDenied") if denied else None

        with stub_server(quirk) as stub:
            it = opened(stub)
            for _ in range(2):
                assert it.store.locks.delete(versions) == (versions[1],)
            assert it.store.locks.delete(versions[1:2]) == (versions[1],)
            assert stub.operations == ["DeleteObjects", *["DeleteObject"] * 7]
            it.store.put("a", b"")
        assert it.notices == [ONE_BY_ONE]

    @pytest.mark.parametrize("code", ["AccessDenied", "InvalidRequest"])
    @pytest.mark.parametrize("version", ["<VersionId>locked</VersionId>", ""])
    def test_versions_that_a_batch_keeps(self, opened: Open, code: str, version: str) -> None:
        """MinIO calls a lock an invalid request; a server may leave out which version it keeps."""
        versions = [ObjectVersion("a", "locked", 0, 0.0), ObjectVersion("b", "1", 0, 0.0)]
        error = f"<Key>kvm/a</Key>{version}<Code>{code}</Code><Message>Object is WORM protected.</Message>"
        body = f"<DeleteResult><Error>{error}</Error></DeleteResult>".encode()
        with stub_server(when("DeleteObjects", Answer(200, body))) as stub:
            assert opened(stub).store.locks.delete(versions) == (versions[0],)

    def test_a_version_that_is_kept(self, opened: Open) -> None:
        """MinIO's answer to a single deletion."""
        versions = [ObjectVersion("a", "locked", 0, 0.0), ObjectVersion("b", "1", 0, 0.0)]

        def quirk(stub: Stub, request: Request) -> Answer | None:
            if operation(request) == "DeleteObjects":
                return s3_error(501, "NotImplemented")
            held = s3_error(400, "InvalidRequest", "Object is WORM protected and cannot be overwritten")
            return held if "versionId=locked" in request.path else None

        with stub_server(quirk) as stub:
            assert opened(stub).store.locks.delete(versions) == (versions[0],)

    def test_versions_that_are_all_kept(self, opened: Open) -> None:
        versions = [ObjectVersion("a", number, 0, 0.0) for number in ("1", "2")]

        def quirk(stub: Stub, request: Request) -> Answer | None:
            return s3_error(403, "AccessDenied")

        with stub_server(quirk) as stub:
            it = opened(stub)
            assert it.store.locks.delete(versions) == tuple(versions)
            assert it.store.locks.delete([]) == ()

    def test_no_bucket_is_no_difference(self, opened: Open) -> None:
        with stub_server(when("DeleteObjects", s3_error(404, "NoSuchBucket"))) as stub:
            with pytest.raises(StoreError, match="NoSuchBucket"):
                opened(stub).store.delete(["a"])
            assert stub.operations == ["DeleteObjects"]

"""The differences between servers that docs/providers.md lists: each is met, and told in these words."""

from __future__ import annotations

import datetime
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

import puller
from puller.api.arguments import working
from puller.cancelling import CancelScope
from puller.diagnosis.finding import Status
from puller.diagnosis.store import examine
from puller.errors import ObjectChanged, ObjectExists, ObjectNotFound, StoreDenied, StoreError
from puller.repository import repository as repositories
from puller.repository.collecting.lease import Lease
from puller.repository.keys.keyring import KeyRing
from puller.repository.repository import Repository
from puller.store.base import Store
from puller.store.objectlock import ObjectVersion
from puller.store.retrying import RetryingStore
from puller.store.s3.client import connect
from puller.store.s3.s3 import S3Store
from puller.store.unconditional import UnconditionalStore
from tests.lab.history import MOMENT, Disk, back_up, wrong_points
from tests.store.certificates import make_certificate
from tests.store.scripted import LARGE, ONCE, Answer, Request, s3_error
from tests.store.stub import Quirk, Stub, key_of, operation, stub_server

PROVIDERS = Path(__file__).parents[2] / "docs" / "providers.md"


@dataclass
class Opened:
    """A store on a stub, and what its observer was told."""

    store: S3Store
    notices: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = self.store.within(CancelScope(observer=self.notices.append))

    @property
    def retrying(self) -> Store:
        return RetryingStore(self.store, self.store.scope)


Open = Callable[[Stub], Opened]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Open:
    """Return what opens the bucket of a stub, and tries each request once."""

    def open_at(stub: Stub) -> Opened:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", stub.endpoint)
        return Opened(connect("bucket", "kvm", ONCE))

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return open_at


def documented(notice: str) -> str:
    """Return a notice that docs/providers.md has in these words."""
    assert f"`{notice}`" in PROVIDERS.read_text()
    return notice


def when(asked: str, answer: Answer) -> Quirk:
    """Answer this operation so, and all others as usual."""
    return lambda stub, request: answer if operation(request) == asked else None


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

    @staticmethod
    def refuse_long(stub: Stub, request: Request) -> Answer | None:
        """As rclone does."""
        length = request.headers.get("range", "").removeprefix("bytes=-")
        too_long = length.isdigit() and int(length) > len(stub.objects.get(key_of(request), b""))
        return s3_error(416, "InvalidRange") if too_long else None

    def test_a_range_longer_than_the_object(self, opened: Open) -> None:
        with stub_server(self.refuse_long) as stub:
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
            return self.refuse_long(stub, request)

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


class TestDeletions:
    NOTICE = "the server does not delete several objects in one request: they are deleted one by one"

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
        assert it.notices == [documented(self.NOTICE)]

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
        assert it.notices == [self.NOTICE]

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
        assert it.notices == [self.NOTICE]

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


class TestAbsence:
    """Ceph denies access to absent objects under a right to list that is limited to a prefix."""

    NOTICE = "the server denies access to objects that do not exist: listings confirm that they are absent"

    @staticmethod
    def deny_absent(stub: Stub, request: Request) -> Answer | None:
        denied = Answer(403) if request.method == "HEAD" else s3_error(403, "AccessDenied", "")
        return denied if stub.is_absent(request) or operation(request) == "HeadBucket" else None

    @pytest.mark.parametrize(
        ("verb", "ask"),
        [
            ("read", lambda store: store.get("a")),
            ("read", lambda store: store.get_range("a", 0, 1)),
            ("read", lambda store: store.get_tail("a", 1)),
            ("look up", lambda store: store.stat("a")),
            ("look up", lambda store: store.locks.lock_of("a")),
        ],
    )
    def test_is_confirmed_by_a_listing(self, opened: Open, verb: str, ask: Callable[[Store], object]) -> None:
        with stub_server(self.deny_absent) as stub:
            it = opened(stub)
            it.store.put("ab", b"")  # is not a
            for _ in range(2):
                with pytest.raises(ObjectNotFound) as caught:
                    ask(it.store)
        where = f"bucket bucket at {stub.endpoint}"
        assert caught.value.message == f"cannot {verb} a in {where}: there is no such object"
        it.store._differences.tell(it.store.scope)
        assert it.notices == [documented(self.NOTICE)]

    def test_a_repository_is_created(self, opened: Open) -> None:
        with stub_server(self.deny_absent) as stub:
            it = opened(stub)
            repositories.create(it.retrying, None)
            assert repositories.open_repository(it.retrying, None).descriptor.conditional_writes
        assert it.notices == [self.NOTICE]

    @pytest.mark.parametrize("asked", ["GetObject", "HeadObject"])
    def test_an_object_that_exists_stays_denied(self, opened: Open, asked: str) -> None:
        with stub_server(when(asked, Answer(403))) as stub:
            it = opened(stub)
            it.store.put("a", b"")
            with pytest.raises(StoreDenied, match=r"a in bucket .*: Forbidden \(403\)"):
                (it.store.stat if asked == "HeadObject" else it.store.get)("a")
        assert it.notices == []

    def test_a_listing_says_why_a_lookup_is_refused(self, opened: Open) -> None:
        """A HEAD has no body."""

        def quirk(stub: Stub, request: Request) -> Answer | None:
            refused = s3_error(403, "InvalidAccessKeyId", "The key does not exist.")
            return Answer(403) if request.method == "HEAD" else refused

        with stub_server(quirk) as stub, pytest.raises(StoreDenied) as caught:
            opened(stub).store.stat("a")
        where = f"bucket bucket at {stub.endpoint}"
        assert (
            caught.value.message
            == f"cannot look up a in {where}: The key does not exist (InvalidAccessKeyId)"
        )


class TestConditions:
    def test_the_look_before_an_unconditional_put_is_a_listing(self, opened: Open) -> None:
        def quirk(stub: Stub, request: Request) -> Answer | None:
            return s3_error(501, "NotImplemented") if "if-none-match" in request.headers else None

        with stub_server(quirk) as stub:
            store = UnconditionalStore(opened(stub).retrying)
            store.put_new("a", b"first")
            with pytest.raises(ObjectExists, match="a exists already in s3://bucket/kvm"):
                store.put_new("a", b"second")
            assert stub.operations == ["ListObjectsV2", "PutObject", "ListObjectsV2"]
            assert not repositories.create(opened(stub).retrying, None).descriptor.conditional_writes

    NOTICE = (
        "the server honoured conditional writes at 'init' and no longer does, so it may replace an object "
        "that should be new"
    )

    @staticmethod
    def ignore(stub: Stub, request: Request) -> Answer | None:
        """Ceph does it once versioning is switched on."""
        request.headers.pop("if-none-match", None)
        return None

    def test_no_longer_honoured(self, opened: Open) -> None:
        with stub_server() as stub:
            repositories.create(opened(stub).retrying, None)
            stub.quirk = self.ignore
            stub.requests.clear()
            it = opened(stub)
            repository = repositories.open_repository(it.retrying, None)
            for number in range(3):
                repository.store.put_new(f"pending/{number}", b"content")
            assert stub.operations.count("PutObject") == 4
            assert stub.objects["kvm/pending/0"] == b"content"
        assert it.notices == [documented(self.NOTICE)]

    def test_honoured(self, opened: Open) -> None:
        with stub_server() as stub:
            it = opened(stub)
            it.store.put_new("large", bytes(LARGE))
            for name in ("a", "b"):
                it.store.put_new(name, b"content")
            assert stub.operations == ["PutObject"] * 4
        assert it.notices == []

    def test_an_outage_meanwhile_proves_nothing(self, opened: Open) -> None:
        def quirk(stub: Stub, request: Request) -> Answer | None:
            repeated = key_of(request) in stub.objects
            return s3_error(503, "SlowDown") if repeated and len(stub.requests) < 3 else None

        with stub_server(quirk) as stub:
            it = opened(stub)
            for name in ("a", "b", "c"):
                it.store.put_new(name, b"content")
            assert stub.operations == ["PutObject"] * 5
        assert it.notices == []


def test_a_lease_that_cannot_be_given_back(opened: Open) -> None:
    with stub_server() as stub:
        it = opened(stub)
        with Lease.take(it.retrying, KeyRing.unencrypted(bytes(16), bytes(16)).boxes(), "prune"):
            stub.quirk = lambda stub, request: s3_error(403, "AccessDenied", "The key was withdrawn.")
    assert it.notices == [
        "cannot give back the lease of this prune, so that another one has to wait up to 15 minutes: cannot "
        f"store {leased(stub)} in bucket bucket at {stub.endpoint}: The key was withdrawn (AccessDenied)"
    ]


def test_a_lease_that_was_denied_is_not_given_back(opened: Open) -> None:
    with stub_server(lambda stub, request: s3_error(403, "AccessDenied", "No right to put.")) as stub:
        it = opened(stub)
        with (
            pytest.raises(StoreDenied, match="No right to put"),
            Lease.take(it.retrying, KeyRing.unencrypted(bytes(16), bytes(16)).boxes(), "prune"),
        ):
            pass
    assert it.notices == []


def leased(stub: Stub) -> str:
    return key_of(stub.requests[-1]).removeprefix("kvm/")


class TestUnsignedBodies:
    NOTICE = "the server refuses unsigned bodies: all bodies are signed, which takes more processor time"

    @pytest.fixture
    def tls(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
        certificate = make_certificate(tmp_path / "server.pem")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        return context

    @pytest.mark.parametrize("size", [5, LARGE])
    @pytest.mark.parametrize(
        "answer", [s3_error(403, "AccessDenied"), s3_error(501, "NotImplemented"), Answer(400)]
    )
    def test_are_signed_where_that_is_asked_for(
        self, opened: Open, tls: ssl.SSLContext, answer: Answer, size: int
    ) -> None:
        def quirk(stub: Stub, request: Request) -> Answer | None:
            return answer if request.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD" else None

        body = os.urandom(size)
        with stub_server(quirk, tls) as stub:
            it = opened(stub)
            it.store.put("a", body)
            assert it.store.get("a") == body
            it.store.put("b", body)
            assert stub.operations == ["PutObject", "PutObject", "GetObject", "PutObject"]
        assert it.notices == [documented(self.NOTICE)]

    def test_a_denial_of_something_else_stays(self, opened: Open, tls: ssl.SSLContext) -> None:
        with stub_server(when("PutObject", s3_error(403, "AccessDenied")), tls) as stub:
            it = opened(stub)
            with pytest.raises(StoreDenied):
                it.store.put("a", b"")
            assert stub.operations == ["PutObject"] * 2
            assert list(it.store.list("")) == []
            assert stub.requests[-1].headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
        assert it.notices == []

    def test_what_was_accepted_once_is_not_signed(self, opened: Open, tls: ssl.SSLContext) -> None:
        with stub_server(tls=tls) as stub:
            it = opened(stub)
            it.store.put("a", b"")
            stub.quirk = when("PutObject", s3_error(403, "AccessDenied"))
            with pytest.raises(StoreDenied):
                it.store.put("b", b"")
            assert stub.operations == ["PutObject"] * 2


class TestExpectations:
    NOTICE = (
        "the server does not answer 'Expect: 100-continue' as it should: large objects are sent without it"
    )

    @pytest.mark.parametrize("expectation", ["refused", "dropped"])
    def test_are_left_out(self, opened: Open, expectation: str) -> None:
        with stub_server(expectation=expectation) as stub:
            it = opened(stub)
            for name in ("a", "b", "c"):
                it.store.put(name, bytes(LARGE))
            assert len(stub.objects) == 3
        assert it.notices == [documented(self.NOTICE)]

    def test_one_connection_that_was_lost_proves_nothing(self, opened: Open) -> None:
        with stub_server(expectation="dropped") as stub:
            it = opened(stub)
            it.store.put("a", bytes(LARGE))
            stub.expectation = "met"
            it.store.put("b", bytes(LARGE))
            assert stub.requests[-1].headers["expect"] == "100-continue"
        assert it.notices == []


class TestRegions:
    NOTICE = "the bucket is in region X: set AWS_DEFAULT_REGION=X to save a request"

    @staticmethod
    def refuse(answer: Answer) -> Quirk:
        def quirk(stub: Stub, request: Request) -> Answer | None:
            elsewhere = "/eu-central-1/s3/" not in request.headers["authorization"]
            return answer if elsewhere else None

        return quirk

    @pytest.mark.parametrize(
        "answer",
        [
            Answer(
                400, b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-central-1</Region></Error>"
            ),
            s3_error(
                400, "AuthorizationHeaderMalformed", "The region 'x' is wrong; expecting 'eu-central-1'"
            ),
            Answer(
                301,
                b"<Error><Code>PermanentRedirect</Code><Message>Elsewhere.</Message></Error>",
                {"x-amz-bucket-region": "eu-central-1"},
            ),
        ],
        ids=["region", "message", "redirect"],
    )
    def test_of_the_bucket_is_used(self, opened: Open, answer: Answer) -> None:
        with stub_server(self.refuse(answer)) as stub:
            it = opened(stub)
            it.store.put("a", b"content")
            assert it.store.get("a") == b"content"
            assert stub.operations == ["PutObject", "PutObject", "GetObject"]
        assert documented(self.NOTICE)
        assert it.notices == [self.NOTICE.replace("X", "eu-central-1")]

    def test_of_the_user_is_no_difference(self, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
        with stub_server(self.refuse(s3_error(400, "AuthorizationHeaderMalformed"))) as stub:
            it = opened(stub)
            it.store.put("a", b"content")
        assert it.notices == []


class TestClocks:
    NOTICE = "the server refused a request as too old, after a stall: it was signed again"

    def test_a_request_that_was_too_long_under_way_is_signed_again(
        self, opened: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        times = iter(datetime.datetime(2026, 11, 29, hour) for hour in range(24))
        monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: next(times))

        def quirk(stub: Stub, request: Request) -> Answer | None:
            return s3_error(403, "RequestTimeTooSkewed") if len(stub.requests) == 1 else None

        with stub_server(quirk) as stub:
            it = opened(stub)
            it.store.put("a", bytes(LARGE))
            first, second = (request.headers["x-amz-date"] for request in stub.requests)
        assert first < second
        assert it.notices == [documented(self.NOTICE)]

    def test_a_wrong_clock(self, opened: Open) -> None:
        skewed = s3_error(403, "RequestTimeTooSkewed", "The difference is too large.")

        def quirk(stub: Stub, request: Request) -> Answer | None:
            return Answer(403) if request.method == "HEAD" else skewed

        with stub_server(quirk) as stub:
            it = opened(stub)
            for verb, ask in (("read", it.store.get), ("look up", it.store.stat)):
                with pytest.raises(StoreDenied) as caught:
                    ask("a")
                where = f"bucket bucket at {stub.endpoint}"
                why = "The difference is too large (RequestTimeTooSkewed)"
                assert caught.value.message == f"cannot {verb} a in {where}: {why}"
                assert caught.value.advice == "Set this host's clock; S3 allows 15 minutes of difference."
        assert it.notices == []


class TestTemporaryCredentials:
    NOTICE = "the credentials expired and were read again"

    @pytest.fixture(autouse=True)
    def file(self, opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        self.path = tmp_path / "credentials"
        self.write("old")

    def write(self, token: str) -> None:
        """As a program does that renews them."""
        keys = f"aws_access_key_id = {token}\naws_secret_access_key = b\naws_session_token = {token}\n"
        self.path.write_text(f"[default]\n{keys}")

    @staticmethod
    def refuse_old(stub: Stub, request: Request) -> Answer | None:
        expired = Answer(400) if request.method == "HEAD" else s3_error(400, "ExpiredToken", "It is old.")
        return expired if request.headers["x-amz-security-token"] == "old" else None

    @pytest.mark.parametrize("asked", ["get", "put", "stat", "list"])
    def test_are_read_again(self, opened: Open, asked: str) -> None:
        with stub_server() as stub:
            it = opened(stub)
            it.store.put("a", b"content")
            self.write("new")
            stub.quirk = self.refuse_old
            asks: dict[str, Callable[[], object]] = {
                "get": lambda: it.store.get("a"),
                "put": lambda: it.store.put("a", b"content"),
                "stat": lambda: it.store.stat("a"),
                "list": lambda: list(it.store.list("")),
            }
            asks[asked]()
            refused, *others = [name for name in stub.operations[1:] if name != "HeadBucket"]
            assert others == [refused]
            stub.requests.clear()
            assert it.store.get("a") == b"content"
            assert len(stub.requests) == 1
        assert it.notices == [documented(self.NOTICE)]

    @pytest.mark.parametrize("asked", ["get", "stat"])
    def test_without_new_ones(self, opened: Open, asked: str) -> None:
        with stub_server(self.refuse_old) as stub:
            it = opened(stub)
            with pytest.raises(StoreDenied) as caught:
                (it.store.get if asked == "get" else it.store.stat)("a")
        verb = "read" if asked == "get" else "look up"
        where = f"bucket bucket at {stub.endpoint}"
        assert caught.value.message == f"cannot {verb} a in {where}: It is old (ExpiredToken)"
        assert caught.value.advice == "Renew the temporary credentials, then run the command again."
        assert it.notices == []

    def test_that_cannot_be_read_any_more(self, opened: Open) -> None:
        with stub_server() as stub:
            it = opened(stub)
            it.store.put("a", b"content")
            self.path.write_text("not [an ini file")
            stub.quirk = self.refuse_old
            with pytest.raises(StoreDenied, match=r"It is old \(ExpiredToken\)"):
                it.store.get("a")


class TestNotices:
    def test_wait_for_an_observer(self, opened: Open) -> None:
        with stub_server(when("DeleteObjects", s3_error(501, "NotImplemented"))) as stub:
            it = opened(stub)
            unheard = it.store.within(CancelScope())
            unheard.delete(["a"])
            assert it.notices == []
            it.store.put("a", b"")
            it.store.put("b", b"")
        assert it.notices == [TestDeletions.NOTICE]


class TestHistories:
    """What users are told: by backups, prune and check, each of which is a process of its own."""

    @staticmethod
    def differ(stub: Stub, request: Request) -> Answer | None:
        """Have the differences of Ceph once versioning is switched on, and those of rclone."""
        TestConditions.ignore(stub, request)
        if operation(request) == "DeleteObjects":
            return s3_error(403, "AccessDenied", "")
        return TestAbsence.deny_absent(stub, request) or TestTails.refuse_long(stub, request)

    def test_on_a_server_that_differs_in_all(self, opened: Open) -> None:
        with stub_server() as stub:
            opened(stub)
            url = "s3://bucket/kvm"
            puller.create_repository(url)
            stub.quirk = self.differ
            disk: Disk = [1, 2, 0, 3]
            runs: dict[str, list[str]] = {name: [] for name in ("backup", "again", "prune", "check")}
            first = back_up(observed(url, runs["backup"]), "web1", disk).commit()
            repository = observed(url, runs["again"])
            later = back_up(repository, "web1", [1, 4, 0, 3], first, disk, moment=MOMENT + DAY).commit()
            pruned = puller.prune(
                puller.open_repository(url),
                puller.Policy(last=1),
                grace=timedelta(0),
                observer=partial(keep_notice, runs["prune"]),
            )
            assert pruned.removed == (first.point,)
            report = puller.check(
                puller.open_repository(url), read_data=1.0, observer=partial(keep_notice, runs["check"])
            )
            assert report.errors == ()
            assert wrong_points(puller.open_repository(url), {later.point: [1, 4, 0, 3]}) == []
        for name in ("backup", "again", "prune"):
            assert TestConditions.NOTICE in runs[name], name
        assert TestDeletions.NOTICE in runs["prune"]
        for notices in runs.values():
            assert len(set(notices)) == len(notices)


DAY = timedelta(days=1)


def observed(url: str, notices: list[str]) -> Repository:
    return working(puller.open_repository(url), "web1", partial(keep_notice, notices))


def keep_notice(notices: list[str], event: puller.Event) -> None:
    if isinstance(event, puller.Notice):
        notices.append(event.text)


def test_doctor_lists_what_it_met(opened: Open) -> None:
    with stub_server(TestHistories.differ) as stub:
        it = opened(stub)
        repositories.create(it.retrying, None)
        found = {item.name: item for item in examine(opened(stub).store)}
    assert found["conditional-writes"].status is Status.WARN
    assert found["differences"].status is Status.OK
    assert found["differences"].text == TestDeletions.NOTICE


def test_doctor_met_nothing(opened: Open) -> None:
    with stub_server() as stub:
        repositories.create(opened(stub).retrying, None)
        found = {item.name: item.text for item in examine(opened(stub).store)}
    assert found["differences"] == "none was met"

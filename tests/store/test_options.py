"""Options of a store: which values are refused, and what reaches the server."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import boto3
import pytest

import puller
from puller.errors import StoreDenied, StoreError, UsageError
from puller.store.location import open_store
from puller.store.options import BULK, DEFAULTS, StoreOptions, from_environment
from puller.store.s3.client.client import connect
from tests.lab.archive import make_point
from tests.lab.ceph import KMS_KEY, Ceph
from tests.lab.seaweed import Seaweed
from tests.store.scripted import HEADERS, ONCE, Answer, Request, ScriptedServer, scripted_server

KEYS = ("repository.json", "keys/a", "packs/00/a", "maps/00/a", "index/a", "points/a", "locks/a")
LIST = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with scripted_server(Answer(headers=HEADERS)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint)
        yield server


def stored(server: ScriptedServer, options: StoreOptions, prefix: str = "prefix") -> dict[str, Request]:
    """Put each of KEYS in both ways, and return the requests by key and way."""
    store = connect("bucket", prefix, ONCE, options)
    for key in KEYS:
        store.put(key, b"body")
        store.put_new(f"{key}.new", b"body")
    return {request.path.removeprefix(f"/bucket/{prefix}").strip("/"): request for request in server.requests}


@pytest.mark.parametrize("prefix", ["", "prefix"])
def test_only_packs_have_the_storage_class(server: ScriptedServer, prefix: str) -> None:
    requests = stored(server, StoreOptions(storage_class="STANDARD_IA"), prefix)
    classes = {key: request.headers.get("x-amz-storage-class") for key, request in requests.items()}
    with_class = {"packs/00/a", "packs/00/a.new"}
    assert classes == {key: "STANDARD_IA" if key in with_class else None for key in requests}
    assert len(classes) == 2 * len(KEYS)


def test_every_object_is_encrypted_with_the_key(server: ScriptedServer) -> None:
    requests = stored(server, StoreOptions(sse="aws:kms", kms_key="alias/backups"))
    assert len(requests) == 2 * len(KEYS)
    for request in requests.values():
        assert request.headers["x-amz-server-side-encryption"] == "aws:kms"
        assert request.headers["x-amz-server-side-encryption-aws-kms-key-id"] == "alias/backups"


def test_without_options_no_header_is_sent(server: ScriptedServer) -> None:
    names = {name for request in stored(server, DEFAULTS).values() for name in request.headers}
    assert not {name for name in names if "storage-class" in name or "encryption" in name or "payer" in name}


def test_the_requester_pays_for_every_request(server: ScriptedServer) -> None:
    store = connect("bucket", "prefix", ONCE, StoreOptions(request_payer="requester"))
    store.put("a", b"")
    store.stat("a")
    store.get("a")
    server.answers[:] = [Answer(body=LIST), Answer(body=b"<DeleteResult/>")]
    list(store.list(""))
    store.delete(["a"])
    assert [request.headers.get("x-amz-request-payer") for request in server.requests] == ["requester"] * 5


@pytest.mark.parametrize(("style", "host"), [("path", "localhost"), ("virtual", "bucket.localhost")])
@pytest.mark.parametrize("profile", ["path", "virtual"])
def test_the_address_of_the_bucket(
    monkeypatch: pytest.MonkeyPatch,
    server: ScriptedServer,
    tmp_path: Path,
    profile: str,
    style: str,
    host: str,
) -> None:
    (tmp_path / "config").write_text(f"[default]\ns3 =\n  addressing_style = {profile}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint.replace("127.0.0.1", "localhost"))
    resolve = socket.getaddrinfo
    monkeypatch.setattr("socket.getaddrinfo", lambda host, *rest: resolve("127.0.0.1", *rest))
    connect("bucket", "prefix", ONCE, StoreOptions(addressing=style)).put("a", b"")
    (request,) = server.requests
    assert request.headers["host"].partition(":")[0] == host
    assert request.path == ("/bucket/prefix/a" if style == "path" else "/prefix/a")


def test_a_pool_holds_the_connections(server: ScriptedServer) -> None:
    def pool(options: StoreOptions) -> object:
        return connect("bucket", "", None, options)._client.meta.config.max_pool_connections  # type: ignore[attr-defined]

    assert pool(DEFAULTS) == 32
    assert pool(StoreOptions(connections=32)) == 64


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("absent.pem", None, "No such file or directory"),
        ("empty.pem", b"no certificate", "it has no certificate in PEM form"),
    ],
)
def test_a_ca_bundle_that_cannot_be_used(
    server: ScriptedServer, tmp_path: Path, name: str, content: bytes | None, why: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        open_store("s3://bucket/prefix", StoreOptions(ca_bundle=str(path)))
    assert caught.value.message == f"cannot use the CA bundle {path}: {why}"
    assert server.requests == []


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"PULLER_STORAGE_CLASS": "DEEP_ARCHIVE"},
            "PULLER_STORAGE_CLASS: storage class DEEP_ARCHIVE is an archive: its objects cannot be "
            "read until hours after a request, but puller reads packs at any time",
        ),
        ({"PULLER_SSE": "AES128"}, "PULLER_SSE: invalid value 'AES128': use AES256 or aws:kms"),
        ({"PULLER_KMS_KEY": "k", "PULLER_SSE": "AES256"}, "cannot use kms-key without sse aws:kms"),
        ({"PULLER_REQUEST_PAYER": "yes"}, "PULLER_REQUEST_PAYER: invalid value 'yes': use requester"),
        ({"PULLER_ADDRESSING": "x"}, "PULLER_ADDRESSING: invalid value 'x': use auto or path or virtual"),
        ({"PULLER_CONNECTIONS": "65"}, "PULLER_CONNECTIONS: invalid number '65': use a number from 1 to 64"),
        (
            {"PULLER_CONNECTIONS": "many"},
            "PULLER_CONNECTIONS: invalid number 'many': use a number from 1 to 64",
        ),
    ],
)
def test_wrong_variables(variables: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        from_environment(variables, DEFAULTS)
    assert caught.value.message == message


def test_variables_override_the_configuration_one_by_one() -> None:
    configured = StoreOptions(storage_class="STANDARD_IA", connections=4, addressing="path")
    found = from_environment({"PULLER_CONNECTIONS": "9", "PULLER_ADDRESSING": ""}, configured)
    assert found == StoreOptions(storage_class="STANDARD_IA", connections=9, addressing="path")


def test_the_python_interface_refuses_them_too() -> None:
    with pytest.raises(UsageError, match=r"^storage-class: storage class GLACIER is an archive"):
        puller.StoreOptions(storage_class="GLACIER")


def test_every_object_of_a_repository_is_encrypted_with_the_key_by_a_real_server(
    monkeypatch: pytest.MonkeyPatch, ceph: Ceph
) -> None:
    ceph.use(monkeypatch)
    ceph.make_bucket("encrypted")
    options = StoreOptions(sse="aws:kms", kms_key=KMS_KEY)
    repository = puller.create_repository("s3://encrypted/kvm", store_options=options)
    make_point(repository, {"vda": bytes(range(256)) * 4096})
    client = ceph.client()
    keys = [info.key for info in repository.store.list("")]
    assert {key.partition("/")[0] for key in keys} >= {"repository.json", "packs", "maps", "index", "points"}
    for key in keys:
        assert client.head_object(Bucket="encrypted", Key=f"kvm/{key}")["SSEKMSKeyId"] == KMS_KEY
    assert puller.check(repository, read_data=100).errors == ()


def test_a_class_that_the_server_does_not_have(monkeypatch: pytest.MonkeyPatch, seaweed: Seaweed) -> None:
    seaweed.use(monkeypatch)
    seaweed.make_bucket("classless")
    store = open_store("s3://classless/kvm", StoreOptions(storage_class="NONSENSE"))
    store.put("points/a", b"body")
    with pytest.raises(StoreError) as caught:
        store.put("packs/00/a", b"body")
    assert caught.value.message.endswith(
        ": The storage class you specified is not valid (InvalidStorageClass)"
    )
    assert caught.value.advice == "Set storage-class to a class that the server has, or remove it."


def test_a_key_that_the_server_does_not_have(monkeypatch: pytest.MonkeyPatch, ceph: Ceph) -> None:
    ceph.use(monkeypatch)
    ceph.make_bucket("keyless")
    store = open_store("s3://keyless/kvm", StoreOptions(sse="aws:kms", kms_key="absent"))
    with pytest.raises(StoreDenied, match=r"^cannot store a in bucket keyless at .*kms-keyid: absent"):
        store.put("a", b"body")


def test_the_classes_of_a_repository_on_a_real_server(
    monkeypatch: pytest.MonkeyPatch, seaweed: Seaweed
) -> None:
    seaweed.use(monkeypatch)
    seaweed.make_bucket("classes")
    prefix = uuid4().hex
    options = StoreOptions(storage_class="STANDARD_IA")
    repository = puller.create_repository(f"s3://classes/{prefix}", store_options=options)
    make_point(repository, {"vda": bytes(range(256)) * 4096})
    answer = boto3.client("s3").list_objects_v2(Bucket="classes", Prefix=prefix)
    found = {entry["Key"].removeprefix(f"{prefix}/"): entry["StorageClass"] for entry in answer["Contents"]}
    assert {kind.partition("/")[0] for kind in found} >= {
        "repository.json",
        "packs",
        "maps",
        "index",
        "points",
    }
    assert found == {key: "STANDARD_IA" if key.startswith(BULK) else "STANDARD" for key in found}
    assert puller.check(repository, read_data=100).errors == ()


def test_a_credentials_file_belongs_to_one_repository(
    server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name)
    monkeypatch.setenv(
        "AWS_SHARED_CREDENTIALS_FILE", str(_credentials(tmp_path / "shared", "shared", server))
    )
    for name in ("first", "second"):
        options = StoreOptions(credentials_file=str(_credentials(tmp_path / name, name, server)))
        connect("bucket", "", ONCE, options).put("keys/a", b"body")
    connect("bucket", "", ONCE).put("keys/a", b"body")
    signed = [request.headers["authorization"] for request in server.requests]
    assert [text.split("Credential=")[1].split("/")[0] for text in signed] == ["first", "second", "shared"]


def test_a_credentials_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        open_store("s3://bucket/prefix", StoreOptions(credentials_file=str(tmp_path / "absent")))
    why = "No such file or directory"
    assert caught.value.message == f"cannot read the credentials file {tmp_path / 'absent'}: {why}"


def _credentials(path: Path, key: str, server: ScriptedServer) -> Path:
    lines = (
        "[default]",
        f"aws_access_key_id={key}",
        "aws_secret_access_key=x",
        f"endpoint_url={server.endpoint}",
    )
    path.write_text("\n".join(lines) + "\n")
    return path

"""The policies of docs/operations.md: each suffices for its role's commands, and allows nothing beyond."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import puller
from puller.errors import ObjectNotFound, StoreDenied, StoreError
from puller.repository.records.verified import LEAST
from puller.store.base import Store
from puller.store.location import open_store
from tests.cli.conftest import CommandLine
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec, Machine
from tests.lab.s3server import S3Server

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
BUCKET = "policies"
URL = f"s3://{BUCKET}/kvm"
KEY = bytes(range(32))  # no password, whose derivation takes half a second a command
MIB = 1 << 20
NO_RIGHT = 14
KINDS = (
    "keys",
    "packs",
    "maps",
    "index",
    "points",
    "pending",
    "condemned",
    "damaged",
    "verified",
    "kept",
    "proofs",
    "locks",
)
MAY_PUT = {
    "backup": {"packs", "maps", "index", "pending", "points", "kept"},
    "prune": {"packs", "maps", "index", "condemned", "damaged", "verified", "kept", "locks"},
    "check": {"damaged", "verified"},
    "restore": set[str](),
    "drill": {"proofs", "kept"},
}
MAY_DELETE = {
    "backup": {"pending"},
    "prune": set(KINDS) - {"keys"},
    "check": {"damaged", "verified"},
    "restore": set[str](),
    "drill": set[str](),
}


PRINCIPALS = {"seaweed": "arn:aws:iam::000000000000:user/{}", "ceph": "arn:aws:iam:::user/{}"}
"""How a policy names a user, by server."""


def statements(role: str, principal: str) -> list[dict[str, Any]]:
    """What the page shows below the role's heading, for the bucket of this test and its user."""
    section = PAGE.read_text().partition(f"\n### {role.capitalize()}\n")[2]
    policy = re.search(r"^```json\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert policy is not None
    document = json.loads(policy[1].replace(":::backups", f":::{BUCKET}"))
    user = {"AWS": [principal.format(role)]}
    return [{**statement, "Principal": user} for statement in document["Statement"]]


@pytest.fixture(scope="module", params=PRINCIPALS)
def server(request: pytest.FixtureRequest, servers: Callable[[str], S3Server]) -> S3Server:
    """A server with a bucket whose policy is all of the page."""
    made = servers(request.param)
    made.make_bucket(BUCKET)
    principal = PRINCIPALS[request.param]
    all_statements = [each for role in MAY_PUT for each in statements(role, principal)]
    policy = {"Version": "2012-10-17", "Statement": all_statements}
    made.client().put_bucket_policy(Bucket=BUCKET, Policy=json.dumps(policy))
    return made


@pytest.fixture
def be(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes S3 clients of this process, and so puller, use a role's access key."""
    server.use(monkeypatch)
    monkeypatch.setenv("PULLER_CONFIG", "/dev/null")
    monkeypatch.setenv("PULLER_REPOSITORY", URL)
    (tmp_path / "key").write_bytes(KEY)
    monkeypatch.setenv("PULLER_KEY_FILE", str(tmp_path / "key"))
    return lambda role: monkeypatch.setenv("AWS_ACCESS_KEY_ID", role)


@pytest.fixture
def machine(machine_factory: MachineFactory, libvirt_uri: str, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = machine_factory(DiskSpec("vda", 8 * MIB))
    made.write("vda", 7, 0, MIB)
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", libvirt_uri)
    return made


def is_allowed(store: Store, act: str, key: str) -> bool:
    try:
        if act == "put":
            store.put(key, b"")
        else:
            store.delete([key])
    except StoreDenied:
        return False
    return True


def test_each_role_does_its_work(
    be: Callable[[str], None], machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli = CommandLine(capsys)
    puller.create_repository(URL, key_file=KEY)  # by the bucket's owner
    key = tmp_path / "key"

    def codes(*lines: str) -> list[int]:
        return [cli(*line.split()).code for line in lines]

    latest = f"{machine.name}@latest"
    be("backup")
    assert codes(f"backup {machine.name}") == [0]
    machine.write("vda", 9, 0, MIB)
    assert codes(f"backup {machine.name}", "points", f"doctor {machine.name}") == [0, 0, 0]
    assert codes(f"keep {latest}", f"keep {latest} --note again") == [0, 0]
    assert codes("prune --keep-last 1", f"release {latest}") == [NO_RIGHT] * 2
    assert codes("doctor --exercise-store 1M") == [1]

    be("prune")
    assert codes(f"delete {latest}", f"release {latest}", f"keep {latest} --until 2999-01-01") == [2, 0, 0]
    assert codes(f"release {latest}") == [0]
    be("backup")
    assert codes(f"delete {latest}") == [NO_RIGHT]
    be("prune")
    assert codes("prune --keep-last 1 --grace 0", "repair index", "check") == [0, 0, 0]
    assert codes("doctor --exercise-store 1M") == [0]
    assert len(puller.list_points(puller.open_repository(URL, key_file=KEY))) == 1
    assert codes(f"key add --new-key-file {key}") == [NO_RIGHT]

    be("check")
    for _ in range(LEAST):
        checked = cli("check", "--read-data")
        assert (checked.code, "AccessDenied" in checked.err) == (0, False)
    assert "chunks read: 0," in cli("check", "--max-age", "1d").out
    assert codes("prune") == [NO_RIGHT]
    be("prune")
    pruned = cli("prune")
    assert (pruned.code, "AccessDenied" in pruned.err) == (0, False), "it writes the checks' records as one"

    be("restore")
    assert codes(f"restore {latest} --output {tmp_path / 'out'} --format raw", "check --read-data") == [0, 0]
    assert (tmp_path / "out" / "vda.raw").read_bytes() == b"\x09" * MIB + bytes(7 * MIB)
    assert codes(f"backup {machine.name}") == [NO_RIGHT]


@pytest.mark.parametrize("role", MAY_PUT)
def test_nothing_beyond_is_allowed(be: Callable[[str], None], role: str) -> None:
    be(role)
    store = open_store(URL)
    assert {kind for kind in KINDS if is_allowed(store, "put", f"{kind}/x")} == MAY_PUT[role]
    assert {kind for kind in KINDS if is_allowed(store, "delete", f"{kind}/x")} == MAY_DELETE[role]
    assert not is_allowed(store, "put", "repository.json")
    assert not is_allowed(store, "delete", "repository.json")
    elsewhere = open_store(f"s3://{BUCKET}/other")
    for act in (
        lambda: list(elsewhere.list("")),
        lambda: elsewhere.get("a"),
        lambda: elsewhere.put("a", b""),
    ):
        with pytest.raises(StoreError, match="AccessDenied"):
            act()


@pytest.mark.parametrize("role", MAY_PUT)
def test_what_is_absent_is_told_from_what_is_denied(be: Callable[[str], None], role: str) -> None:
    """Though who may list a prefix only may not ask for the bucket."""
    be(role)
    with pytest.raises(ObjectNotFound):
        open_store(URL).stat("packs/00/absent")


def test_ceph_deletes_many_at_once_if_the_bucket_is_among_the_resources(
    servers: Callable[[str], S3Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the page says: the server still checks the permission for each object."""
    ceph, bucket = servers("ceph"), f"{BUCKET}-at-once"
    keys = ["kvm/pending/a", "kvm/points/a"]
    ceph.make_bucket(bucket)
    for key in keys:
        ceph.client().put_object(Bucket=bucket, Key=key)
    allowed = statements("backup", PRINCIPALS["ceph"])
    (deletion,) = [each for each in allowed if each["Action"] == "s3:DeleteObject"]
    deletion["Resource"] = [deletion["Resource"], f"arn:aws:s3:::{BUCKET}"]
    policy = json.dumps({"Version": "2012-10-17", "Statement": allowed}).replace(
        f":::{BUCKET}", f":::{bucket}"
    )
    ceph.client().put_bucket_policy(Bucket=bucket, Policy=policy)
    monkeypatch.setattr(type(ceph), "access_key", "backup")
    answer = ceph.client().delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys]})
    assert [each["Key"] for each in answer["Deleted"]] == keys[:1]
    assert [each["Code"] for each in answer["Errors"]] == ["AccessDenied"]

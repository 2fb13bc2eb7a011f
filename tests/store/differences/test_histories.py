"""What users are told of the differences: by backups, prune, check and doctor."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

import pytest

import puller
from puller.api.arguments import working
from puller.cancelling import CancelScope
from puller.diagnosis.finding import Status
from puller.diagnosis.store import examine
from puller.errors import StoreDenied
from puller.repository import repository as repositories
from puller.repository.collecting.lease import Lease
from puller.repository.keys.keyring import KeyRing
from puller.repository.repository import Repository
from tests.lab.history import MOMENT, Disk, back_up, wrong_points
from tests.store.differences.differing import ONE_BY_ONE, UNCONDITIONAL, Open, differ, when
from tests.store.scripted import s3_error
from tests.store.stub import Stub, key_of, stub_server


def test_a_lease_that_cannot_be_given_back(opened: Open) -> None:
    with stub_server() as stub:
        it = opened(stub)
        with Lease.take(it.retrying, KeyRing.unencrypted(bytes(16), bytes(16)).boxes(), "prune"):
            stub.quirk = lambda stub, request: s3_error(403, "AccessDenied", "The key was withdrawn.")
    assert it.notices == [
        "cannot release the lease of this prune, so another one has to wait up to 15 minutes: cannot "
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


class TestNotices:
    def test_wait_for_an_observer(self, opened: Open) -> None:
        with stub_server(when("DeleteObjects", s3_error(501, "NotImplemented"))) as stub:
            it = opened(stub)
            unheard = it.store.within(CancelScope())
            unheard.delete(["a"])
            assert it.notices == []
            it.store.put("a", b"")
            it.store.put("b", b"")
        assert it.notices == [ONE_BY_ONE]


class TestHistories:
    """What users are told: by backups, prune and check, each of which is a process of its own."""

    def test_on_a_server_that_differs_in_all(self, opened: Open) -> None:
        with stub_server() as stub:
            opened(stub)
            url = "s3://bucket/kvm"
            puller.create_repository(url)
            stub.quirk = differ
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
            assert UNCONDITIONAL in runs[name], name
        assert ONE_BY_ONE in runs["prune"]
        for notices in runs.values():
            assert len(set(notices)) == len(notices)


DAY = timedelta(days=1)


def observed(url: str, notices: list[str]) -> Repository:
    return working(puller.open_repository(url), "web1", partial(keep_notice, notices))


def keep_notice(notices: list[str], event: puller.Event) -> None:
    if isinstance(event, puller.Notice):
        notices.append(event.text)


def test_doctor_lists_what_it_met(opened: Open) -> None:
    with stub_server(differ) as stub:
        it = opened(stub)
        repositories.create(it.retrying, None)
        found = {item.name: item for item in examine(opened(stub).store)}
    assert found["conditional-writes"].status is Status.WARN
    assert found["differences"].status is Status.OK
    assert found["differences"].text == ONE_BY_ONE


def test_doctor_met_nothing(opened: Open) -> None:
    with stub_server() as stub:
        repositories.create(opened(stub).retrying, None)
        found = {item.name: item.text for item in examine(opened(stub).store)}
    assert found["differences"] == "none was met"

"""The steps after the backups: prune and check."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import puller
from puller import api
from puller.store.base import ObjectInfo
from puller.store.directory.folder import FolderStore
from puller.units import CHUNK
from tests.cli.conftest import CommandLine
from tests.cli.run.setting import Setting
from tests.lab.archive import data_packs, make_point
from tests.lab.machine import Machine


def test_prune_and_check_follow(
    cli: CommandLine, setting: Setting, machine: Machine, repository: puller.Repository
) -> None:
    other = make_point(repository, {"vda": b"by hand"}, domain=machine.name)
    setting.job(
        f'domains = ["{machine.name}"]\nthen = ["check", "prune"]\ncheck = 100\ngrace = "0"\n'
        "[jobs.nightly.keep]\nlast = 1"
    )
    first = cli("run", "nightly", "--json").document
    assert first["prune"]["removed"] == []
    assert first["check"]["chunks_read"] > 0
    second = cli("run", "nightly", "--json").document
    assert second["prune"]["removed"] == [first["points"][0]["point"]]
    # What the job has not taken is neither pruned nor checked by it.
    assert other.point in {point.point for point in puller.list_points(repository)}
    assert second["check"]["points"] == 1


class TestOwnPoints:
    """Which points the job prunes and checks. None of this needs a machine."""

    def test_those_of_other_hosts_and_domains_stay(
        self, cli: CommandLine, setting: Setting, repository: puller.Repository
    ) -> None:
        def point(day: int, domain: str, host: str | None = None) -> puller.Point:
            moment = datetime(2026, 11, day, tzinfo=UTC)
            return make_point(repository, {"vda": b"x"}, domain, moment, {"job": "nightly"}, host)

        own = [point(day, "web1") for day in (1, 2)]
        elsewhere = [point(day, "web1", "kvm2") for day in (3, 4)]
        others = [point(day, domain) for domain in ("db1", "web9") for day in (5, 6)]
        rules = 'exclude = ["web9"]\nkeep = { last = 1 }'
        setting.job(f'domains = ["web*"]\n{rules}')
        document = cli("run", "nightly", "--only", "prune", "--json").document
        assert document["prune"]["removed"] == [own[0].point]
        assert cli("run", "nightly", "--only", "check", "--json").document["check"]["points"] == 1
        # The machine on which the hosts' points are pruned has jobs of theirs.
        setting.job(f'domains = ["web*"]\n{rules}\nhosts = ["{own[0].host}", "kvm*"]')
        document = cli("run", "nightly", "--only", "prune", "--json").document
        assert document["prune"]["removed"] == [elsewhere[0].point]
        # For machines that move from host to host.
        setting.job(f'domains = ["web*"]\n{rules}\nhosts = ["{own[0].host}", "kvm*"]\nacross-hosts = true')
        document = cli("run", "nightly", "--only", "prune", "--json").document
        assert document["prune"]["removed"] == [own[1].point]
        left = {item.point for item in puller.list_points(repository)}
        assert left == {elsewhere[1].point, *(item.point for item in others)}

    def test_one_that_is_deleted_during_the_check_is_no_error(
        self,
        cli: CommandLine,
        setting: Setting,
        repository: puller.Repository,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        points = [make_point(repository, {"vda": b"x"}, tags={"job": "nightly"}) for _ in range(3)]
        setting.job('domains = ["web1"]')
        real = api.list_points

        def delete_one(*words: Any, **choices: Any) -> list[puller.Point]:
            listed = real(*words, **choices)
            puller.delete(repository, [points[0].point])  # the prune of another host
            return listed

        monkeypatch.setattr(api, "list_points", delete_one)
        assert cli("run", "nightly", "--only", "check").code == 0

    def test_the_check_lists_the_points_once(
        self,
        cli: CommandLine,
        setting: Setting,
        repository: puller.Repository,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for _ in range(5):
            make_point(repository, {"vda": b"x"}, tags={"job": "nightly"})
        listed: list[str] = []
        real = FolderStore.list

        def listing(self: FolderStore, prefix: str) -> Iterator[ObjectInfo]:
            listed.append(prefix)
            return real(self, prefix)

        monkeypatch.setattr(FolderStore, "list", listing)
        setting.job('domains = ["web1"]')
        assert cli("run", "nightly", "--only", "check").code == 0
        assert listed.count("points/") == 1

    def test_a_damaged_record_is_an_error_of_the_check(
        self, cli: CommandLine, setting: Setting, repository: puller.Repository, folder: Path
    ) -> None:
        _, hurt = (make_point(repository, {"vda": b"x"}, tags={"job": "nightly"}) for _ in range(2))
        (folder / "points" / hurt.uuid / hurt.point).write_bytes(b"no record")
        setting.job('domains = ["web1"]')
        answer = cli("run", "nightly", "--only", "check", "--json")
        assert answer.code == 13
        assert [error["point"] for error in answer.document["check"]["errors"]] == [hurt.point]
        assert answer.document["check"]["points"] == 1
        assert "no errors" not in cli("run", "nightly", "--only", "check").out

    def test_damage_beside_a_failure_without_a_point_is_told_as_damage(
        self, cli: CommandLine, setting: Setting, repository: puller.Repository, folder: Path
    ) -> None:
        point = make_point(repository, {"vda": b"x" * CHUNK}, domain="gone", tags={"job": "nightly"})
        for pack in data_packs(folder):
            pack.unlink()
        setting.job('domains = ["gone"]\nthen = ["check"]\nafter = { command = ["false"] }')
        answer = cli("run", "nightly", "--json")
        assert (answer.error["code"], answer.error["name"]) == (13, "DamagedData")
        assert {error["point"] for error in answer.document["check"]["errors"]} == {point.point}
        setting.job('domains = ["gone"]\nafter = { command = ["false"] }')
        answer = cli("run", "nightly", "--json")
        assert (answer.error["code"], answer.error["name"]) == (16, "NoSuchDomain")
        assert "; after: false failed with exit code 1" in answer.error["message"]

    def test_what_does_nothing_says_so(
        self, cli: CommandLine, setting: Setting, repository: puller.Repository
    ) -> None:
        setting.job('domains = ["web1"]')
        none = f"job nightly has no points of its domains from {platform.node()}: "
        checked = cli("run", "nightly", "--only", "check")
        assert (checked.code, f"{none}nothing was checked" in checked.err) == (0, True)
        pruned = cli("run", "nightly", "--only", "prune")
        assert (pruned.code, "no keep rules, so no point is removed" in pruned.err) == (0, True)
        make_point(repository, {"vda": b"x"}, tags={"job": "nightly"}, host="kvm2")
        setting.job('domains = ["web1"]\nkeep = { last = 1 }')
        assert f"{none}no point was considered" in cli("run", "nightly", "--only", "prune").err


def test_only_one_step(cli: CommandLine, setting: Setting, machine: Machine) -> None:
    setting.job(f'domains = ["{machine.name}"]\nthen = ["prune"]\n[jobs.nightly.keep]\nlast = 1')
    assert cli("run", "nightly", "--only", "backup", "--json").document["prune"] is None
    document = cli("run", "nightly", "--only", "prune", "--json").document
    assert (document["points"], len(document["prune"]["kept"])) == ([], 1)


def test_damage_found_by_the_check_gives_13(
    cli: CommandLine, setting: Setting, machine: Machine, folder: Path
) -> None:
    setting.job(f'domains = ["{machine.name}"]\nthen = ["check"]\ncheck = 100.0')
    assert cli("run", "nightly").code == 0
    for pack in (path for path in (folder / "packs").rglob("*") if path.is_file()):
        pack.write_bytes(bytes(100) + pack.read_bytes()[100:])
    answer = cli("run", "nightly", "--only", "check", "--json")
    assert answer.code == 13
    assert answer.document["check"]["errors"]

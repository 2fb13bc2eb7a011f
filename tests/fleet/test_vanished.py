"""Points that are deleted, and packs that are compacted, after the driver of a fleet has chosen them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

import puller
from puller.cli.input.worker import work
from puller.errors import NoSuchPoint
from puller.events import ignore
from puller.fleet.machines import copy_in_shards, prove_in_shards
from puller.repository.records.verified import VerifiedPack
from puller.units import CHUNK
from puller.upkeep.checking.verification import Verification
from tests.fleet.conftest import PASSWORD
from tests.fleet.inline import Inline
from tests.lab.archive import make_point

MOMENT = datetime(2026, 11, 1, tzinfo=UTC)
WORK = partial(work, puller.__version__)
pytestmark = pytest.mark.usefixtures("in_this_process")


@pytest.fixture
def source(tmp_path: Path) -> puller.Repository:
    return puller.create_repository(str(tmp_path / "source"), password=PASSWORD)


def points_of(source: puller.Repository) -> list[puller.Point]:
    return [
        make_point(
            source, {"vda": bytes([age, number]) * (CHUNK // 2)}, f"d{number}", MOMENT + timedelta(age)
        )
        for age in range(2)
        for number in range(2)
    ]


def delete(source: puller.Repository, points: Sequence[puller.Point]) -> None:
    puller.delete(source, [point.point for point in points])


def test_a_copy_goes_on_with_the_other_points(tmp_path: Path, source: puller.Repository) -> None:
    target = puller.create_repository(str(tmp_path / "target"), password=PASSWORD)
    points = points_of(source)
    delete(source, points[:1])
    report, tasks = copy_in_shards(source, target, points, (None, None), {}, ignore, Inline(), WORK)
    assert [item.point for item in report.copied] == [point.point for point in points[1:]]
    assert [(name, type(error)) for name, error in report.failed] == [(points[0].point, NoSuchPoint)]
    assert tasks == 2


def test_a_machine_whose_points_are_all_gone_copies_no_others(
    tmp_path: Path, source: puller.Repository
) -> None:
    target = puller.create_repository(str(tmp_path / "target"), password=PASSWORD)
    points = points_of(source)
    chosen = points[::2]
    delete(source, chosen)
    report, _ = copy_in_shards(source, target, chosen, (None, None), {}, ignore, Inline(), WORK)
    assert (report.copied, [name for name, _ in report.failed]) == ((), [point.point for point in chosen])


def test_a_drill_that_cannot_be_held_is_told_with_the_domain(source: puller.Repository) -> None:
    (point, *_) = points_of(source)
    delete(source, [point])
    found, tasks = prove_in_shards(source, [point], None, {}, ignore, Inline(), WORK)
    assert [(domain, type(error)) for domain, error in found.failed] == [("d0", NoSuchPoint)]
    assert (found.held, tasks) == ([], 1)


def test_a_pack_that_prune_compacts_before_a_worker_reads_it_counts_as_verified(
    source: puller.Repository,
) -> None:
    pack = VerifiedPack(bytes(16), 1)
    verification = Verification(source, {pack.pack_id: (0,)}, {}, ignore)
    source.verified.put_as("0" * 32, [pack])
    verification.add_recorded([pack], None)
    verification.refresh()
    assert pack.pack_id in verification.times

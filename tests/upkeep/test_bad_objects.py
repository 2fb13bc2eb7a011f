"""Objects of every kind that are missing, cut short, doubled, swapped or somebody else's.

Whatever is wrong with one object, all who read the repository answer or fail with a documented error; and
when the object is as it was again, every committed point is whole: nobody has removed what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import product
from pathlib import Path

import pytest

from puller.errors import DamagedData, NoRepository, RepositoryError, WrongKey
from puller.events import ignore
from puller.recovery import restore as restores
from puller.repository import repository as repositories
from puller.repository.reading.image import DiskImage
from puller.repository.repository import Repository
from puller.upkeep.checking.check import check
from puller.upkeep.checking.schedule import Reading
from puller.upkeep.pruning.prune import preview, prune
from puller.upkeep.repair import repair_index
from puller.upkeep.retention.policy import Policy
from puller.upkeep.stats import stats
from tests.fuzz import _KEY_FILE, Target
from tests.lab.history import back_up

KINDS = (
    "repository.json",
    *(
        "keys/",
        "packs/",
        "maps/",
        "index/",
        "points/",
        "pending/",
        "condemned/",
        "damaged/",
        "kept/",
        "proofs/",
        "locks/",
    ),
)
NOBODY_NEEDS = ("index/", "pending/", "damaged/", "kept/", "proofs/", "locks/")
"""Without these every point can be listed, restored and checked."""

NOT_THERE = ("points/", "index/", "pending/", "condemned/", "damaged/", "kept/", "proofs/")
"""Empty ones of these are in nobody's way."""

Fault = Callable[[Target, str], None]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PULLER_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield Target.make(_KEY_FILE)


def _missing(target: Target, name: str) -> None:
    target.store.delete([name])


def _cut(target: Target, name: str) -> None:
    target.store.put(name, target.objects[name][: len(target.objects[name]) // 2])


def _empty(target: Target, name: str) -> None:
    target.store.put(name, b"")


def _longer(target: Target, name: str) -> None:
    target.store.put(name, target.objects[name] + b"\0")


def _doubled(target: Target, name: str) -> None:
    """The same object under another name that an object of its kind might have."""
    last = "0" if name[-1] != "0" else "1"
    target.store.put(name[:-1] + last, target.objects[name])


def _swapped(target: Target, name: str) -> None:
    """Another object of the kind in its place, or of any kind if there is only one."""
    kind = name.partition("/")[0]
    others = [other for other in target.objects if other != name]
    target.store.put(name, target.objects[next((o for o in others if o.startswith(f"{kind}/")), others[0])])


def _foreign(target: Target, name: str) -> None:
    """Somebody else's objects beside it, and one in its place."""
    folder = name.rpartition("/")[0]
    for stranger in ("README", "0" * 31, "deep/er"):
        target.store.put(f"{folder}/{stranger}".lstrip("/"), b"of somebody else")
    target.store.put(name, b'{"format": "of somebody else"}')


FAULTS: tuple[Fault, ...] = (_missing, _cut, _empty, _longer, _doubled, _swapped, _foreign)


def _actions(folder: Path) -> dict[str, Callable[[Repository], object]]:
    return {
        "points": lambda repository: repository.points.all(lambda name, error: None),
        "latest": lambda repository: repository.points.select("a@latest"),
        "stats": stats,
        "check": lambda repository: check(repository, (), Reading(100.0), ignore),
        "restore": lambda repository: _restore(repository, folder),
        "backup": lambda repository: back_up(repository, "c", [1, 9]).commit(),
        "preview": lambda repository: preview(repository, Policy(last=1)),
        "prune": lambda repository: prune(repository, Policy()),
        "prune at once": lambda repository: prune(repository, Policy(), timedelta(0)),
        "repair": repair_index,
    }


def _restore(repository: Repository, folder: Path) -> None:
    for number, point in enumerate(repository.points.all()):
        restores.restore(repository, point, restores.Request(str(folder / f"restored-{number}")))


def _open(target: Target) -> Repository:
    return repositories.open_repository(target.store, target.secret)


def _read(repository: Repository, expected: dict[str, bytes]) -> dict[str, bytes]:
    found = {}
    for point in repository.points.all(lambda name, error: None):
        if point.point in expected:
            image = DiskImage(repository.maps, repository.packs, point.disks[0].root.address)
            disk = bytearray(len(expected[point.point]))
            for window in image.windows():
                assert not window.damage
                for offset, content in (item for job in window.jobs for item in image.read(job)):  # type: ignore[misc]
                    disk[offset : offset + len(content)] = content
            found[point.point] = bytes(disk)
    return found


def _put_back(target: Target, name: str) -> None:
    """What was wrong with the object is so no more; all else is as it has become."""
    target.store.put(name, target.objects[name])
    _unlock(target)


def _unlock(target: Target) -> None:
    target.store.delete([info.key for info in target.store.list("locks/")])


@pytest.mark.parametrize(
    ("kind", "fault"), list(product(KINDS, FAULTS)), ids=lambda it: getattr(it, "__name__", it)
)
def test_one_bad_object(target: Target, kind: str, fault: Fault, tmp_path: Path) -> None:
    names = sorted(name for name in target.objects if name.startswith(kind))
    for name in {names[0], names[-1]}:
        with target.having(name, target.objects[name]):
            if kind != "locks/":
                _unlock(target)
            fault(target, name)
            outcomes = dict(_play(target, tmp_path / name.replace("/", "-")))
            if fault is _empty and kind in NOT_THERE:
                assert outcomes.keys() <= {"latest"}, "of this domain there may be no other point"
            if kind in NOBODY_NEEDS:
                assert not {"points", "check", "restore", "stats"} & outcomes.keys(), outcomes
            _put_back(target, name)
            expected = dict(target.expected)
            if fault in (_missing, _empty):  # a point whose record is gone has been deleted
                expected.pop(name.rpartition("/")[2] if kind == "points/" else "", None)
            assert _read(_open(target), expected) == expected, outcomes


def _play(target: Target, folder: Path) -> Iterator[tuple[str, str]]:
    """Let all who read the repository read it; what failed, and how."""
    folder.mkdir()
    for word, action in _actions(folder).items():
        try:
            action(_open(target))
        except RepositoryError as error:
            assert error.message and error.advice
            yield word, type(error).__name__


def test_nothing_fails_where_nothing_is_wrong(target: Target, tmp_path: Path) -> None:
    name = min(target.objects)
    with target.having(name, target.objects[name]):
        _unlock(target)
        assert dict(_play(target, tmp_path / "all")) == {}


def test_what_each_loss_of_the_whole_is_called(target: Target) -> None:
    for name, error in (("repository.json", NoRepository), ("keys/", WrongKey)):
        keys = [key for key in target.objects if key.startswith(name)]
        with target.having(keys[0], target.objects[keys[0]]):
            target.store.delete(keys)
            with pytest.raises(error):
                _open(target)
    with (
        target.having("repository.json", target.objects["repository.json"][:40]),
        pytest.raises(NoRepository),
    ):
        _open(target)


def test_stats_tell_a_damaged_point_and_count_the_others(target: Target) -> None:
    name = next(name for name in target.objects if name.startswith("points/"))
    with target.having(name, target.objects[name][:-1]) as repository:
        with pytest.raises(DamagedData):
            stats(repository)
        damaged: list[str] = []
        assert stats(repository, lambda point, error: damaged.append(point)).points == 1
        assert damaged == [name.rpartition("/")[2]]

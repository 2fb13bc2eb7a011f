"""``puller fleet``: results and exit codes of the single commands, and no secret on the way."""

from __future__ import annotations

import inspect
import json
import pickle
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import puller
from puller.cli.input.worker import _opened, work
from puller.cli.program import run
from puller.errors import CannotDrill, MonitorRefused, PullerError
from puller.events import ignore
from puller.fleet import machines, packs
from puller.fleet.machines import prove_in_shards
from puller.fleet.task import Answer, DrillTask
from puller.recovery.proving.prove import Drills, HeldDrill
from puller.repository.records.proofs import Proof
from puller.units import CHUNK
from puller.upkeep.checking.check import CheckReport
from puller.upkeep.checking.schedule import Reading
from tests.fleet.conftest import PACKS, PASSWORD, make_repository
from tests.fleet.inline import Inline
from tests.lab.archive import make_point
from tests.test_public_api import errors

DAY = timedelta(days=1)
MOMENT = datetime(2026, 11, 1, tzinfo=UTC)
WORK = partial(work, puller.__version__)
pytestmark = pytest.mark.usefixtures("in_this_process")


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one damaged pack, which stays as it is."""
    folder = tmp_path_factory.mktemp("damaged") / "repository"
    make_repository(str(folder))
    return folder


@pytest.fixture
def url(damaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A copy of the repository, of which no cache knows what another test did with its own."""
    monkeypatch.setenv("PULLER_CACHE_DIR", str(tmp_path / "cache"))
    return str(shutil.copytree(damaged, tmp_path / "repository"))


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any]]]:
    def call(*words: str) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        code = run([*words, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return call


def fleet_check(url: str, reading: Reading, engine: Inline) -> tuple[CheckReport, int]:
    repository = puller.open_repository(url, password=PASSWORD)
    return packs.check_in_shards(repository, [], reading, ignore, engine, WORK)


def test_the_processes_of_a_pool_find_what_one_command_finds(
    url: str, tmp_path: Path, answer: Callable[..., tuple[int, dict[str, Any]]]
) -> None:
    one = answer("check", "-r", url, "--read-data")
    metrics = tmp_path / "metrics"
    words = ("--on", "local:2", "--metrics-file", str(metrics))
    code, many = answer("fleet", "check", "-r", url, "--read-data", *words)
    assert code == one[0] == 13
    assert many.pop("shards") >= 8
    del one[1]["oldest_verified"], many["oldest_verified"]
    assert many == one[1]
    assert 'puller_check_exit_code{job="fleet"} 13.0' in metrics.read_text()
    assert 'puller_check_errors{job="fleet"} 1.0' in metrics.read_text()


@pytest.mark.parametrize(
    "reading",
    [Reading(), Reading(100.0), Reading(25.0), Reading(max_age=DAY), Reading(budget=1), Reading(budget=4000)],
)
def test_every_kind_of_reading_is_that_of_one_command(url: str, reading: Reading) -> None:
    report, tasks = fleet_check(url, reading, Inline())
    repository = puller.open_repository(url, password=PASSWORD)
    records = repository.verified.read(repository.verified.listed())
    recorded = [pack.pack_id for record in records for pack in record.packs]
    assert tasks > 0 and report.packs == 2 * PACKS
    assert len(recorded) == len(set(recorded)) == report.packs_verified
    if reading.max_age is not None or reading.percent == 100:
        assert (report.packs_verified, len(report.errors), report.packs_left) == (PACKS - 1, 1, 0)
    if reading.budget is not None:
        assert 0 < report.packs_verified + report.packs_left + len(report.errors) <= PACKS
        assert report.packs_left > 0
    if not reading.reads:
        assert (report.packs_verified, report.chunks_read) == (0, 0)


def test_what_was_verified_is_left_out_by_the_next_fleet(url: str) -> None:
    fleet_check(url, Reading(max_age=DAY), Inline())
    report, _ = fleet_check(url, Reading(max_age=DAY), Inline())
    assert (report.packs_verified, len(report.errors)) == (0, 1), "only the damaged pack was due"


def test_a_task_that_is_done_again_reads_nothing_that_it_has_recorded(url: str) -> None:
    sent = Inline()
    fleet_check(url, Reading(max_age=DAY), sent)
    again = [pickle.loads(item) for item in sent.travelled[::2]]
    for do, task in again:
        found = do(task).result
        assert len(found.sound) + len({fault[0] for fault in found.faults}) == len(task.packs)
        assert found.chunks_read <= 1, "at most the damaged one"


def test_no_password_travels(url: str, tmp_path: Path) -> None:
    engine = Inline()
    fleet_check(url, Reading(100.0), engine)
    source = puller.open_repository(url, password=PASSWORD)
    target = puller.create_repository(str(tmp_path / "target"), password=PASSWORD)
    points = puller.list_points(source)[-2:]
    machines.copy_in_shards(source, target, points, (None, None), {}, ignore, engine, WORK)
    assert engine.travelled
    secrets = [PASSWORD.encode(), *_keys(source), *_keys(target)]
    assert not any(secret in item for item in engine.travelled for secret in secrets)


def _keys(repository: puller.Repository) -> list[bytes]:
    """All key material that the key ring holds as bytes."""
    values = [getattr(repository.keys, name) for name in repository.keys.__slots__]
    found = [bytes(value) for value in values if isinstance(value, bytes | bytearray) and len(value) >= 32]
    assert found
    return found


def test_a_worker_with_another_version_or_repository_refuses(url: str, tmp_path: Path) -> None:
    sent = Inline()
    fleet_check(url, Reading(), sent)
    _, task = pickle.loads(sent.travelled[0])
    refused = work("0.0.0", task)
    assert isinstance(refused.error, puller.UsageError)
    assert "puller 0.0.0" in refused.error.message
    (tmp_path / "repository").rename(tmp_path / "other")
    puller.create_repository(url, password=PASSWORD)
    _opened.clear()
    refused = WORK(task)
    assert refused.error is not None and "another repository" in refused.error.message


def test_a_worker_without_the_password_ends_the_command(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = puller.open_repository(url, password=PASSWORD)
    monkeypatch.setenv("PULLER_PASSWORD", "wrong")
    with pytest.raises(puller.WrongKey):
        packs.check_in_shards(repository, [], Reading(), ignore, Inline(), WORK)


def test_a_fleet_copies_each_machine_in_one_task(
    tmp_path: Path, answer: Callable[..., tuple[int, dict[str, Any]]]
) -> None:
    source = puller.create_repository(str(tmp_path / "source"), password=PASSWORD)
    puller.create_repository(str(tmp_path / "target"), password=PASSWORD)
    points = [
        make_point(source, {"vda": bytes([number, age]) * CHUNK}, f"d{number}", MOMENT + age * DAY)
        for number in range(3)
        for age in range(2)
    ]
    words = ("fleet", "copy", "-r", str(tmp_path / "source"), "--to", str(tmp_path / "target"))
    assert answer(*words, "--on", "local:2", "--domain", "nope")[0] == 16
    code, found = answer(*words, "--on", "local:2")
    assert (code, found["shards"], found["failed"]) == (0, 3, [])
    assert [item["point"] for item in found["copied"]] == [
        point.point for point in sorted(points, key=lambda point: (point.time, point.point))
    ]
    assert answer(*words, "--on", "local:2")[1]["copied"] == []
    assert answer("check", "-r", str(tmp_path / "target"), "--read-data")[0] == 0


def test_drills_are_held_by_the_workers_and_told_as_one() -> None:
    source = _Scene()
    points = [source.point(name) for name in ("a", "b", "c", "d")]

    def drill(task: DrillTask) -> Answer:
        (point,) = (point for point in points if point.point == task.point)
        if point.domain == "a":
            error = CannotDrill("no such machine type")
            return Answer(Drills(failed=[("a", error)]), error)
        return Answer(Drills(held=[HeldDrill(point, Proof(MOMENT, "proven", point.domain))]))

    found, tasks = prove_in_shards(source.repository, points, 2, {}, ignore, source.engine, drill)
    assert [drill.point.domain for drill in found.held] == ["b", "c"]
    assert [domain for domain, _ in found.failed] == ["a"], "it does not take the turn of another machine"
    assert tasks == 3


class _Scene:
    """Points for drills, and an engine that does not pickle."""

    def __init__(self) -> None:
        from tests.upkeep.scene import Scene

        self._scene = Scene.new()
        self.repository = self._scene.open()[1]
        self.engine = _Direct()

    def point(self, domain: str) -> puller.Point:
        return self._scene.back_up(domain, [1])


class _Direct(Inline):
    def submit(self, work: Any, task: Any) -> Any:
        from concurrent.futures import Future

        future: Future[Answer] = Future()
        future.set_result(work(task))
        return future


@pytest.mark.parametrize(
    "word", ["", "local:0", "local:x", "dask://", "dask://host", "ray://host:1", "slurm"]
)
def test_an_engine_that_is_none_is_refused(
    word: str, url: str, answer: Callable[..., tuple[int, dict[str, Any]]]
) -> None:
    code, found = answer("fleet", "check", "-r", url, "--on", word)
    assert code == 2
    assert "local:N or dask://HOST:PORT" in found["error"]["message"]


def test_a_scheduler_that_is_not_there(
    url: str, address: str, answer: Callable[..., tuple[int, dict[str, Any]]]
) -> None:
    pytest.importorskip("distributed")
    code, found = answer("fleet", "check", "-r", url, "--on", f"dask://{address}")
    assert (code, found["error"]["name"], found["error"]["retryable"]) == (1, "FleetLost", True)
    assert f"cannot reach a Dask scheduler at {address}" in found["error"]["message"]


def test_dask_that_is_not_installed(
    url: str, monkeypatch: pytest.MonkeyPatch, answer: Callable[..., tuple[int, dict[str, Any]]]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    code, found = answer("fleet", "check", "-r", url, "--on", "dask://127.0.0.1:8786")
    assert code == 2
    assert found["error"]["advice"] == "Install puller[fleet] on this host and on the workers."


@pytest.mark.parametrize("kind", list(errors()))
def test_every_error_travels_whole(kind: type[PullerError]) -> None:
    if kind is MonitorRefused:
        error: PullerError = MonitorRefused("refused", "its words")
    elif inspect.signature(kind) == inspect.signature(PullerError):
        error = kind("what has failed", advice="Do this.")
    else:
        pytest.skip("it has a form of its own")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert (vars(back), str(back)) == (vars(error), str(error))


def test_what_a_single_command_refuses_is_refused_by_a_fleet(
    tmp_path: Path, answer: Callable[..., tuple[int, dict[str, Any]]]
) -> None:
    url = str(tmp_path / "repository")
    make_point(puller.create_repository(url, password=PASSWORD), {"vda": bytes([1]) * CHUNK})
    for words in (("copy", "-r", url, "--to", url), ("prove", "-r", url, "--timeout", "0s")):
        one = answer(*words)
        assert one[0] == 2
        assert answer("fleet", *words, "--on", "local:1") == one

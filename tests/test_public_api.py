"""What ``import puller`` offers."""

from __future__ import annotations

import ast
import inspect
import pkgutil
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import pytest

import puller
from puller.configuration import mistakes  # noqa: F401 - it adds to the tree of errors

ROOT = Path(__file__).parents[1]

FUNCTIONS = {
    "add_key",
    "alarms",
    "backup",
    "boot",
    "check",
    "copy_files",
    "copy_points",
    "create_repository",
    "delete",
    "diff",
    "discard_booted",
    "doctor",
    "exercise_store",
    "file_versions",
    "find_booted",
    "find_files",
    "forget",
    "freeze",
    "keep",
    "list_booted",
    "list_files",
    "list_kept",
    "list_keys",
    "list_points",
    "lock_policy",
    "mount_files",
    "open_repository",
    "preview_prune",
    "prove",
    "prune",
    "pull_booted",
    "read_configuration",
    "read_file",
    "recreate",
    "release",
    "report",
    "remove_key",
    "repair_index",
    "repair_versions",
    "restore",
    "resume_booted",
    "rollback",
    "run_job",
    "serve",
    "set_lock",
    "stats",
    "status",
}
LITERALS = {"ImageFormat", "JobStep", "KeyRole", "LockMode", "Mode", "QuiesceMode"}
RESULTS = {
    "Alarm",
    "Attachment",
    "Booted",
    "BootedDisk",
    "BootedMachine",
    "CheckError",
    "CheckReport",
    "CopiedPoint",
    "CopyReport",
    "CopiedFiles",
    "CopiedPath",
    "Cost",
    "Damage",
    "DataFileRecord",
    "Day",
    "Decision",
    "DiskDifference",
    "DiskExport",
    "DiskRecord",
    "Drills",
    "ExerciseReport",
    "Export",
    "FileEntry",
    "FileListing",
    "FileVersion",
    "Finding",
    "Forgotten",
    "Freeze",
    "FrozenDisk",
    "HeldDrill",
    "HostReport",
    "ImageRecord",
    "Origin",
    "Interval",
    "JobReport",
    "KeptPoint",
    "Key",
    "Latency",
    "ListedMachine",
    "LockPolicy",
    "MachineReport",
    "MachineStatus",
    "MountedPoint",
    "Point",
    "PointDifference",
    "Proof",
    "PruneReport",
    "Recreated",
    "RemovedBitmap",
    "RepairReport",
    "Replacement",
    "Report",
    "Repository",
    "RepositoryReport",
    "Restored",
    "RestoredDisk",
    "RolledBack",
    "RolledBackDisk",
    "SkippedFile",
    "Stats",
    "Status",
    "Taken",
    "Thresholds",
    "Uncovered",
    "VersionsReport",
    "Waiting",
    "Volume",
    "Throughput",
}
CONFIGURATION = {"Command", "Configuration", "Defaults", "DrillSettings", "Job", "Keep", "Mistake", "Place"}
EVENTS = {
    "Committed",
    "DiskDone",
    "DiskPlanned",
    "DiskProgress",
    "Event",
    "Kept",
    "Notice",
    "Step",
}
OTHERS = {"CancelScope", "Observer", "Policy", "Scope", "Server", "Shard", "StoreOptions"}


def errors(base: type[puller.PullerError] = puller.PullerError) -> Iterator[type[puller.PullerError]]:
    """The whole tree, but for errors of the command line and of tests."""
    yield base
    for error in base.__subclasses__():
        if error.__module__.startswith("puller.") and not error.__module__.startswith("puller.cli."):
            yield from errors(error)


def public(name: str) -> Any:
    return getattr(puller, name)


def function(name: str) -> Callable[..., object]:
    return cast("Callable[..., object]", public(name))


def test_these_names_are_public() -> None:
    names = FUNCTIONS | LITERALS | RESULTS | CONFIGURATION | EVENTS | OTHERS
    assert set(puller.__all__) == names | {error.__name__ for error in errors()}


def test_no_room_has_the_name_of_a_function() -> None:
    """Python binds a subpackage to its name in the package once it is imported, over what was there."""
    rooms = {module.name for module in pkgutil.iter_modules(puller.__path__)}
    assert rooms.isdisjoint(puller.__all__)


def test_what_a_type_checker_sees_is_what_is_loaded() -> None:
    source = ast.parse(Path(puller.__file__).read_text())
    block = next(node for node in source.body if isinstance(node, ast.If))
    seen = {
        alias.name: getattr(import_module(str(node.module)), alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert {name: public(name) for name in puller.__all__} == seen
    assert set(puller.__all__) <= set(dir(puller))


def test_importing_the_package_costs_nothing() -> None:
    program = "import sys, puller; print([name for name in sys.modules if name.startswith('puller.')])"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "['puller.lazy']\n"


@pytest.mark.parametrize("name", sorted(set(puller.__all__) - LITERALS - {"Observer"}))
def test_each_name_has_a_docstring(name: str) -> None:
    text = inspect.getdoc(public(name)) or ""
    assert text
    assert not text.startswith(f"{name}("), "dataclasses makes that one itself"


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_each_function_is_documented_and_typed(name: str) -> None:
    signature = inspect.signature(function(name))
    text = inspect.getdoc(public(name)) or ""
    arguments = text.partition("\nArgs:\n")[2].partition("\n\n")[0]
    assert re.findall(r"^    (\w+): ", arguments, re.MULTILINE) == list(signature.parameters)
    assert all(
        parameter.annotation is not inspect.Parameter.empty for parameter in signature.parameters.values()
    )
    assert signature.return_annotation is not inspect.Signature.empty
    assert ("\nReturns:\n" in text) is (signature.return_annotation != "None")
    raised = text.partition("\nRaises:\n")[2].partition("\n\n")[0]
    named = [
        word for line in re.findall(r"^    ([\w, ]+): ", raised, re.MULTILINE) for word in line.split(", ")
    ]
    assert named
    assert all(issubclass(public(word), puller.PullerError) for word in named)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_the_example_of_each_function_calls_it_as_it_can_be_called(name: str) -> None:
    example = (inspect.getdoc(public(name)) or "").partition("\nExample:\n")[2]
    code = "\n".join(re.findall(r"^ *>>> (.*)", example, re.MULTILINE))
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    called = {
        call.func.attr: call
        for call in calls
        if isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) == "puller"
    }
    assert name in called
    for word, call in called.items():
        keywords = {str(keyword.arg): keyword.value for keyword in call.keywords}
        inspect.signature(public(word)).bind(*call.args, **keywords)


def test_the_marker_of_typed_packages_is_in_the_wheel(tmp_path: Path) -> None:
    for name in ("puller", "systemd"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    program = "from setuptools.build_meta import build_wheel; print(build_wheel('.'))"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    with zipfile.ZipFile(tmp_path / done.stdout.splitlines()[-1]) as wheel:
        assert "puller/py.typed" in wheel.namelist()


def test_the_version_is_that_of_the_package() -> None:
    assert puller.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'restore_all'"):
        _ = puller.restore_all  # type: ignore[attr-defined]


@pytest.fixture
def repository(tmp_path: Path) -> puller.Repository:
    return puller.create_repository(str(tmp_path / "repository"))


UNTOUCHED = "nowhere:///"
"""A URI that would be an error of libvirt's if it were opened."""

REFUSED: dict[str, tuple[Callable[[puller.Repository], object], str, str]] = {
    "mode": (
        lambda repository: puller.backup(repository, "web1", connect=UNTOUCHED, mode=cast("Any", "pul")),
        "invalid mode 'pul'",
        "Set mode to one of: pull, push.",
    ),
    "quiesce": (
        lambda repository: puller.backup(repository, "web1", connect=UNTOUCHED, quiesce=cast("Any", True)),
        "invalid quiesce 'True'",
        "Set quiesce to one of: auto, on, off.",
    ),
    "compression": (
        lambda repository: puller.backup(repository, "web1", connect=UNTOUCHED, compression=20),
        "invalid compression '20'",
        "Use a level from 1 to 19, fast, or auto.",
    ),
    "limit": (
        lambda repository: puller.backup(repository, "web1", connect=UNTOUCHED, limit_upload=0),
        "invalid limit of 0 bytes per second",
        "Use 1 or more, or leave out the limit.",
    ),
    "pace": (
        lambda repository: puller.backup(repository, "web1", connect=UNTOUCHED, pace=0),
        "invalid pace '0'",
        "Use gentle, full, or a number of bytes per second, 1 or more.",
    ),
    "disks": (
        lambda repository: puller.backup(repository, "web1", connect=UNTOUCHED, disks="vda"),
        "disks is the text 'vda'",
        "Use a list: disks=['vda'].",
    ),
    "format": (
        lambda repository: puller.restore(repository, "web1@latest", output="/x", format=cast("Any", "vmdk")),
        "invalid format 'vmdk'",
        "Set format to one of: raw, qcow2.",
    ),
    "points": (
        lambda repository: puller.delete(repository, "web1@latest"),
        "points is the text 'web1@latest'",
        "Use a list: points=['web1@latest'].",
    ),
    "until a date": (
        lambda repository: puller.keep(repository, "web1@latest", until=cast("Any", date(2999, 1, 31))),
        "invalid until '2999-01-31'",
        "Set until to a datetime, such as datetime(2027, 1, 31, tzinfo=UTC).",
    ),
    "until a text": (
        lambda repository: puller.keep(repository, "web1@latest", until=cast("Any", "2999-01-31")),
        "invalid until '2999-01-31'",
        "Set until to a datetime, such as datetime(2027, 1, 31, tzinfo=UTC).",
    ),
    "budget": (
        lambda repository: puller.check(repository, ["web1@latest"], budget=cast("Any", "2h")),
        "invalid budget '2h'",
        "Set budget to a timedelta, or to a number of bytes, an int.",
    ),
    "budget as a float": (
        lambda repository: puller.check(repository, ["web1@latest"], budget=cast("Any", 5e9)),
        "invalid budget '5000000000.0'",
        "Set budget to a timedelta, or to a number of bytes, an int.",
    ),
    "max_age": (
        lambda repository: puller.check(repository, ["web1@latest"], max_age=cast("Any", 30)),
        "invalid max_age '30'",
        "Set max_age to a timedelta, such as timedelta(hours=36).",
    ),
    "grace": (
        lambda repository: puller.prune(repository, puller.Policy(), grace=cast("Any", 0)),
        "invalid grace '0'",
        "Set grace to a timedelta, such as timedelta(hours=36).",
    ),
    "negative grace": (
        lambda repository: puller.prune(repository, puller.Policy(), grace=timedelta(hours=-1)),
        "the grace time cannot be negative",
        "Correct the argument that the message names.",
    ),
    "compare_every": (
        lambda repository: puller.backup(
            repository, "web1", connect=UNTOUCHED, compare_every=cast("Any", "30d")
        ),
        "invalid compare_every '30d'",
        "Set compare_every to a timedelta, such as timedelta(hours=36).",
    ),
    "doctor's mode": (
        lambda repository: puller.doctor(repository, mode=cast("Any", "")),
        "invalid mode ''",
        "Set mode to one of: pull, push.",
    ),
    "doctor's password": (
        lambda repository: puller.doctor(repository, password="x"),
        "an open repository needs no password",
        "Give the URL, or no password.",
    ),
    "two secrets": (
        lambda repository: puller.open_repository("/x", password="x", key_file=bytes(32)),
        "cannot use both a password and a key file",
        "Give one of the two.",
    ),
    "steps": (
        lambda repository: puller.run_job(
            repository, puller.Job("j", ("*",)), steps=cast("Any", ["check", "tidy"])
        ),
        "invalid steps ['check', 'tidy']",
        "Use a list of: backup, copy, prune, check, prove, report.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_meant_is_refused_before_anything_is_touched(
    repository: puller.Repository, name: str
) -> None:
    act, message, advice = REFUSED[name]
    with pytest.raises(puller.UsageError) as refused:
        act(repository)
    assert (refused.value.message, refused.value.advice) == (message, advice)


def test_doctor_takes_a_url_with_a_password_or_an_open_repository(tmp_path: Path) -> None:
    url = str(tmp_path / "sealed")
    opened = puller.create_repository(url, password="night")

    def about_the_repository(findings: list[puller.Finding]) -> list[tuple[str, puller.Status]]:
        names = ("repository", "connection")
        return [(finding.name, finding.status) for finding in findings if finding.name in names]

    connection = ("connection", puller.Status.FAIL)
    for findings in (
        puller.doctor(url, password="night", connect=UNTOUCHED),
        puller.doctor(opened, connect=UNTOUCHED),
    ):
        assert about_the_repository(findings) == [("repository", puller.Status.OK), connection]
    findings = puller.doctor(url, password="day", connect=UNTOUCHED)
    assert about_the_repository(findings) == [("repository", puller.Status.FAIL), connection]


def test_the_index_can_be_rebuilt(repository: puller.Repository) -> None:
    told: list[puller.Event] = []
    assert puller.repair_index(repository, observer=told.append) == puller.RepairReport(0, 0, ())
    steps = [event.name for event in told if isinstance(event, puller.Step)]
    assert steps == ["survey", "packs", "index"]
    assert puller.DiskDone("repository", "packs") in told


VERBS = {
    "Attach",
    "Check",
    "Choose",
    "Complete",
    "Correct",
    "Create",
    "Do",
    "End",
    "Find",
    "Follow",
    "Free",
    "Give",
    "List",
    "Make",
    "Name",
    "Omit",
    "Prune",
    "Read",
    "Remove",
    "Restore",
    "Run",
    "See",
    "Set",
    "Shut",
    "Start",
    "Upgrade",
    "Use",
    "Wait",
}


def test_the_advice_of_each_error_is_one_sentence_that_begins_with_a_verb() -> None:
    advice = {error.__name__: error.default_advice for error in errors()}
    assert [name for name, text in advice.items() if text.split()[0] not in VERBS or text[-1] != "."] == []


def test_any_thread_can_end_the_waits_of_a_repository(repository: puller.Repository, tmp_path: Path) -> None:
    """And of nothing else: another opening of the same place goes on."""
    scope = puller.CancelScope()
    opened = puller.open_repository(str(tmp_path / "repository"), scope=scope)
    assert puller.list_points(opened) == []
    scope.cancel()
    with pytest.raises(puller.StoreUnavailable, match="cancelled before it was answered"):
        puller.list_points(opened)
    assert puller.list_points(repository) == []

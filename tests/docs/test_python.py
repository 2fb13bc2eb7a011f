"""The examples of docs/python.md run, in order, on a real libvirt, and print what the page shows.

What differs from a reader's host: directories of the test take the place of the page's, and an embedded
libvirt that of ``qemu:///system``.
"""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

import puller
from puller import api
from puller.units import MIB
from tests.docs.test_quickstart import matches
from tests.lab.machine import DiskSpec, EmbeddedLibvirt, Machine

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


@pytest.fixture
def web1(embedded_libvirt: EmbeddedLibvirt, tmp_path: Path) -> Iterator[Machine]:
    with embedded_libvirt.machine("web1", tmp_path, [DiskSpec("vda", 24 * MIB)]) as machine:
        machine.write("vda", 7, MIB, 9 * MIB)
        machine.flush()
        yield machine


@pytest.fixture
def embedded_by_default(libvirt_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "DEFAULT_URI", libvirt_uri)
    for name in puller.__all__:
        defaults = getattr(getattr(puller, name), "__kwdefaults__", None) or {}
        if defaults.get("connect") is not None:
            monkeypatch.setitem(defaults, "connect", libvirt_uri)


@pytest.fixture
def sigterm() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def blocks(page: str) -> list[tuple[str, str]]:
    """Each block of Python, and what the page shows below it; empty where it shows nothing."""
    return re.findall(r"^```python\n(.*?)^```$(?:\n+```text\n(.*?)^```$)?", page, re.MULTILINE | re.DOTALL)


def on_the_test_stage(text: str, folder: Path) -> str:
    for place in ("/srv/backups", "/restore/", "/etc/puller/puller.toml"):
        text = text.replace(place, f"{folder}{place}")
    return text


@pytest.mark.usefixtures("embedded_by_default", "sigterm")
def test_every_example_runs_and_prints_what_the_page_shows(
    web1: Machine, libvirt_uri: str, tmp_path: Path
) -> None:
    page = on_the_test_stage(PAGE.read_text(), tmp_path)
    (configuration,) = re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    for place in ("srv", "restore", "etc/puller"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "etc/puller/puller.toml").write_text(configuration)
    names: dict[str, Any] = {}
    for code, shown in blocks(page):
        with redirect_stdout(StringIO()) as printed:
            exec(compile(code, str(PAGE), "exec"), names)
        told = printed.getvalue().replace(libvirt_uri, "qemu:///system")
        assert not shown or matches(told, shown), f"{code}\n{told}"
    web1.stop()
    compared = ["qemu-img", "compare", str(web1.image("vda")), f"{tmp_path}/restore/web1/vda.qcow2"]
    assert (
        subprocess.run(compared, check=True, capture_output=True, text=True).stdout
        == "Images are identical.\n"
    )


def test_the_page_names_every_public_name() -> None:
    listed = set(re.findall(r"`(\w+)`", PAGE.read_text()))
    assert set(puller.__all__) - listed == set()


def test_the_page_shows_the_tree_of_errors() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (`\w+`(?:, `\w+`)*) \|$", PAGE.read_text(), re.MULTILINE)
    told = {base: set(re.findall(r"\w+", names)) for base, names in rows if hasattr(puller, base)}
    real: dict[str, set[str]] = {}
    for name in puller.__all__:
        kind = getattr(puller, name)
        if isinstance(kind, type) and issubclass(kind, puller.PullerError) and kind is not puller.PullerError:
            real.setdefault(kind.__base__.__name__ if kind.__base__ else "", set()).add(name)
    assert told == real

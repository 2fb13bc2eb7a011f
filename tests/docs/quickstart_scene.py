"""Runs the commands of docs/quickstart.md, one block after the other in one shell, where they touch nothing.

``python -m tests.docs.quickstart_scene FOLDER`` prints, as JSON, what each block printed and what came of it
all; test_quickstart.py asserts on it. It runs in a mount namespace of its own (tests/lab/namespace) with a
libvirtd of its own; /etc is a copy there, and /opt, /usr/local and others are empty.

What is not as on a newcomer's machine: whoever answers the questions (terminal.py) gives the endpoint and
keys of a local SeaweedFS in place of the page's; scripts/install installs puller, not the package, which
takes minutes to build (scripts/soak-systemd does that); /opt/puller finds the libraries of the tests'
environment instead of fetching them (PYTHONPATH); and as there is no systemd as process 1, ``systemctl`` and
``journalctl`` are stand_in.py.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from contextlib import closing
from pathlib import Path
from typing import Any

import libvirt

from puller.hypervisor.connection import prepare_library
from tests.lab.daemon import URI, PrivateLibvirt
from tests.lab.kernel import Kernel
from tests.lab.seaweed import Seaweed

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "quickstart.md"
STAND_IN = Path(__file__).with_name("stand_in.py")
TERMINAL = Path(__file__).with_name("terminal.py")
ASKS = "puller config init\n"
INSTALLS = "apt install ./puller_*.deb\n"
IMAGE = Path("/var/lib/libvirt/images/web1.qcow2")

_DOMAIN = f"""\
<domain type='qemu'>
  <name>web1</name>
  <memory unit='MiB'>32</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='{IMAGE}'/>
      <target dev='vda' bus='virtio'/>
    </disk>
  </devices>
</domain>"""


def commands(page: str) -> list[str]:
    """The blocks of the page that are to be run."""
    return re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def clear_the_stage(folder: Path) -> None:
    """Nothing of the commands reaches the host."""
    for path in ("/etc", "/opt", "/usr/local", "/var/cache", "/var/tmp", "/run"):
        own = folder / "stage" / path.removeprefix("/")
        if path == "/etc":
            shutil.copytree(path, own, symlinks=True)
        else:
            own.mkdir(parents=True)
        subprocess.run(["mount", "--bind", str(own), path], check=True)


def define_machine() -> None:
    """A machine with something on its disk, standing still before its first instruction."""
    IMAGE.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", IMAGE, "64M"], check=True)
    subprocess.run(["qemu-io", "-c", "write -q -P 7 1M 9M", IMAGE], check=True)
    with closing(libvirt.open(URI)) as connection:
        connection.defineXML(_DOMAIN).createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)


def end_machine() -> None:
    with closing(libvirt.open(URI)) as connection:
        connection.lookupByName("web1").destroy()


def environment(folder: Path) -> dict[str, str]:
    """That of a fresh root shell, but for the libraries."""
    programs = folder / "programs"
    programs.mkdir()
    for name in ("systemctl", "journalctl"):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {STAND_IN} {folder} {name} "$@"\n')
        (programs / name).chmod(0o755)
    home = folder / "home"
    home.mkdir()
    return {
        "HOME": str(home),
        "PATH": f"{programs}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": sysconfig.get_path("platlib"),
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip takes "0" for: build with the setuptools that is there
        "NO_PROXY": "127.0.0.1",
        "SUPERMIN_KERNEL": str(Kernel.find().image),  # doctor looks for an installed one
        "LC_ALL": "C.UTF-8",
    }


def run(blocks: list[str], folder: Path, answers: list[str]) -> dict[str, Any]:
    """Run them in one shell until one fails; what each one printed."""
    asked = shlex.join([sys.executable, str(TERMINAL), json.dumps(answers), *ASKS.split()])
    instead = {ASKS: f"{asked}\n", INSTALLS: "./scripts/install >/dev/null\n"}
    blocks = [instead.get(block, block) for block in blocks]
    outputs = [folder / f"block-{number}" for number in range(len(blocks))]
    script = folder / "script"
    script.write_text("".join(f"exec >{path}\n{block}" for path, block in zip(outputs, blocks, strict=True)))
    done = subprocess.run(
        ["bash", "-e", str(script)],
        cwd=ROOT,
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    printed = [path.read_text() for path in outputs if path.exists()]
    return {"code": done.returncode, "printed": printed, "errors": done.stderr}


def _as_on_the_page(text: str, shown: dict[str, str]) -> str:
    for there, here in shown.items():
        text = text.replace(here, there)
    return text


def outcome() -> dict[str, object]:
    """What there is afterwards, asked behind the page's back."""
    compared = subprocess.run(
        ["qemu-img", "compare", "-U", str(IMAGE), "/var/tmp/web1/vda.qcow2"],
        capture_output=True,
        text=True,
        check=False,
    )
    man = Path("/usr/local/share/man/man1")
    return {
        "compared": compared.stdout + compared.stderr,
        "man": sorted(path.name for path in man.glob("*")),
        "secret_modes": [oct(path.stat().st_mode & 0o777) for path in Path("/etc/credstore").iterdir()],
    }


def main() -> int:
    folder = Path(sys.argv[1])
    prepare_library()
    clear_the_stage(folder)
    with Seaweed(folder) as server, PrivateLibvirt(folder):
        server.make_bucket("backups")
        define_machine()
        shown = {"https://s3.example.org": server.endpoint, "YOUR-KEY-ID": server.access_key}
        answers = ["s3://backups/kvm", *shown.values(), server.secret_key, "web1"]
        result = run(commands(PAGE.read_text()), folder, answers)
        result["printed"] = [_as_on_the_page(text, shown) for text in result["printed"]]
        objects = server.client().list_objects_v2(Bucket="backups").get("Contents", [])
        result |= outcome() | {"objects": sorted(each["Key"] for each in objects)}
        end_machine()
    json.dump(result, sys.stdout, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Is a bitmap believed that is not the disk's own? 200 random cases on real QEMU, and the rates of the probe.

    scripts/soak_trust.py [--cases N] [--runs N]

The cases are those of tests/integration/test_foreign.py; `scripts/soak --foreign N` plays them alone. The
table is that of docs/measurements.md: how often one run finds that a part of the stored chunks has another
content, by the real choice of places on simulated disks of 100 GiB.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from puller.backups.bases.probe import HARDER  # noqa: E402
from tests.lab.probed import Simulated  # noqa: E402

SHARES = (0.001, 0.01, 0.1, 0.5)
FOREIGN = ("another image", "over a blank one", "blank over it", "scattered blank")


def main() -> int:
    """Print the rates, then run the cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=200, help="random cases on QEMU, 0 for none")
    parser.add_argument("--runs", type=int, default=300, help="simulated runs for each rate, 0 for none")
    options = parser.parse_args()
    if options.runs:
        _print_rates(options.runs)
    return _play(options.cases) if options.cases else 0


def _print_rates(runs: int) -> None:
    for share in SHARES:
        cells = [f"{share:.1%}"]
        for shape in ("at one place", "scattered"):
            once, hard = (_rate(share, shape, times, runs) for times in (1, HARDER))
            cells += [f"{once:.1%}", f"{1 - (1 - once) ** 30:.1%}", f"{hard:.1%}"]
        print("| " + " | ".join(cells) + " |", flush=True)
    for kind in FOREIGN:
        found = sum(Simulated.foreign(kind, random.Random(seed)).found() for seed in range(runs))
        print(f"{kind}: {found} of {runs} found", flush=True)


def _rate(share: float, shape: str, times: int, runs: int) -> float:
    disks = (Simulated.partial(share, shape, random.Random(seed), times=times) for seed in range(runs))
    return sum(disk.found() for disk in disks) / runs


def _play(cases: int) -> int:
    test = "tests/integration/test_foreign.py::test_whatever_is_done_to_the_images_the_next_point_is_exact"
    environment = os.environ | {"PULLER_FOREIGN_CASES": str(cases)}
    with tempfile.TemporaryDirectory(prefix="puller-soak-") as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", test]
        code = subprocess.run(command, check=False, cwd=ROOT, env=environment).returncode
        if report.exists():
            print(_summary(ET.parse(report).getroot()), flush=True)
    return code


def _summary(report: ET.Element) -> str:
    """A disk of kind ``full`` or ``rehash`` was read in full."""
    cases = report.findall(".//testcase")
    failed = sum(case.find("failure") is not None or case.find("error") is not None for case in cases)
    kinds = [found.get("value") for found in report.findall(".//property[@name='kind']")]
    believed = kinds.count("incremental")
    return (
        f"{len(cases)} cases, {failed} failed; {believed} disks were incremental, "
        f"{len(kinds) - believed} were read in full"
    )


if __name__ == "__main__":
    sys.exit(main())

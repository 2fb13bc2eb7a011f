"""Results as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from statistics import median

from benchmarks.cost import Cost
from benchmarks.impact import PHASES, SCENES, Latencies
from benchmarks.results import Results, Spread, percentile, spread
from benchmarks.roofline import STEPS
from benchmarks.targets import Target, verdicts
from benchmarks.works import PULLER, all_works
from puller.units import GIB, MIB


def markdown(results: Results) -> str:
    """All tables."""
    parts = [
        _head(results),
        _facts(results),
        _costs(results),
        _roofline(results),
        _impact(results),
        _targets(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(results: Results) -> str:
    machine = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    layout = results.layout
    disk = (
        f"{layout.size / GIB:.0f} GiB qcow2 with {results.allocated / GIB:.2f} GiB allocated: files of"
        f" {layout.files / GIB:.2f} GiB, {layout.random // MIB} MiB of noise, {layout.zeros // MIB} MiB of"
        " zeros that were written"
    )
    return f"Rounds: {len(results.rounds)}. Disk: {disk}. Machine: {machine}."


def _facts(results: Results) -> str:
    rows = [[step, f"{one:.0f}", f"{all_:.0f}"] for step, (one, all_) in results.facts.items()]
    return (
        _table(["step on chunks of 64 KiB", "MB/s of one thread", "of all cores together"], rows)
        if rows
        else ""
    )


def _costs(results: Results) -> str:
    heads = ["work", "by", "wall s", "to puller's", "CPU s", "QEMU", "store", "peak MiB", "requests", "MiB"]
    rows = [
        [work.name, contestant, *_cells(results, work.name, contestant, costs)]
        for work in all_works(results.layout)
        for contestant in work.contestants
        if (costs := results.costs(work.name, contestant))
    ]
    return _table(heads, rows)


def _cells(results: Results, work: str, contestant: str, costs: Sequence[Cost]) -> list[str]:
    def middle(values: Iterable[float], digits: int = 0) -> str:
        return f"{median(values):.{digits}f}"

    return [
        _shown(spread(cost.wall for cost in costs)),
        "" if contestant == PULLER else _shown(spread(_ratios(results, work, contestant))),
        middle((cost.cpu for cost in costs), 1),
        middle((cost.qemu for cost in costs), 1),
        middle((cost.store for cost in costs), 1),
        middle(cost.peak / MIB for cost in costs),
        middle(cost.requests for cost in costs),
        middle(cost.stored / MIB for cost in costs),
    ]


def _ratios(results: Results, work: str, contestant: str) -> Iterator[float]:
    for round_ in results.rounds:
        costs = round_.costs.get(work, {})
        if PULLER in costs and contestant in costs:
            yield costs[contestant].wall / costs[PULLER].wall


def _roofline(results: Results) -> str:
    found = [round_.roofline for round_ in results.rounds if round_.roofline]
    if not found:
        return ""
    rows = [[step, _shown(spread(each.steps[step] for each in found))] for step in STEPS]
    rows.append(["write to a directory", _shown(spread(each.to_folder for each in found))])
    rows.append(["or put to S3", _shown(spread(each.to_s3 for each in found))])
    rows.append(
        ["compress on all cores at once, over alone", _shown(spread(each.crowding for each in found))]
    )
    for place, shown in (("folder", "a directory"), ("s3", "S3")):
        name = f"roofline of a full to {shown}, wall s"
        rows.append([name, _shown(spread(each.wall(place) for each in found))])
        rows.append([f"{name}, crowded", _shown(spread(each.crowded_wall(place) for each in found))])
    return _table(["step alone", "CPU s"], rows)


def _impact(results: Results) -> str:
    rows = [
        [scene.name, phase, *_felt(found)]
        for scene in SCENES
        for phase in PHASES
        if (found := results.impact(scene.name, phase))
    ]
    heads = ["the guest's 4 KiB", "during", "requests", "wall s", "median ms", "99th percentile ms"]
    return _table(heads, rows) if rows else ""


def _felt(found: Sequence[Latencies]) -> list[str]:
    return [
        str(sum(len(each.requests) for each in found)),
        _shown(spread(each.wall for each in found)),
        _shown(spread(median(each.requests) * 1e3 for each in found), 2),
        _shown(spread(percentile(each.requests, 99) * 1e3 for each in found), 1),
    ]


def _targets(results: Results) -> str:
    rows = []
    for verdict in verdicts(results):
        target = verdict.target
        bound = f"{'at most' if target.at_most else 'at least'} {target.bound:g}{target.unit}"
        found = _shown(verdict.spread, _digits(target))
        each = ", ".join(f"{value:.{_digits(target)}f}" for value in verdict.rounds)
        reached = "reached" if verdict.reached else "MISSED"
        rows.append([target.work, target.against, bound, found, each, reached])
    return _table(["target", "against", "bound", "found", "by round", "verdict"], rows) if rows else ""


def _digits(target: Target) -> int:
    return 0 if target.unit in (" %", " % more", " MiB") else 2


def _shown(found: Spread | None, digits: int = 2) -> str:
    """``median (low-high)``, or the median alone where there was one round."""
    if found is None:
        return ""
    value = f"{found.median:.{digits}f}"
    return value if found.low == found.high else f"{value} ({found.low:.{digits}f}-{found.high:.{digits}f})"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned, so that it can be read as it stands too."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (heads, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)

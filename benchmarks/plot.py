"""Results as pictures.

One has a bar for each contestant of the large works, with the rounds' extremes as whiskers. The other shows
what the speed of a backup costs the guest.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.impact import PHASES, QUIET, SCENES
from benchmarks.results import Results, percentile, spread
from benchmarks.works import PULLER, Work, all_works

PULLERS, OTHERS = "#1b6ca8", "#b8b8b8"
BAR_INCHES = 0.28
MARKS = ["", "o", "^", "s", "D", "X"]
"""One for each phase of the impact."""


def save(results: Results, path: Path) -> None:
    """Write an SVG, the same one each time for the same results."""
    works = [work for work in all_works(results.layout) if _rows(results, work)]
    if not works:
        return
    heights = [len(_rows(results, work)) + 1.6 for work in works]
    figure = Figure(figsize=(8, BAR_INCHES * sum(heights)), layout="constrained")
    axes = figure.subplots(len(works), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, work in zip(axes, works, strict=True):
        _draw(axis, results, work)
    _write(figure, path)


def save_impact(results: Results, path: Path) -> None:
    """Write an SVG: for each scene a mark a phase, seconds of the backup against the guest's latency."""
    scenes = [scene for scene in SCENES if results.impact(scene.name, QUIET)]
    if not scenes:
        return
    figure = Figure(figsize=(8, 2.8 * -(-len(scenes) // 2) + 0.5), layout="constrained")
    axes = figure.subplots(-(-len(scenes) // 2), 2, squeeze=False).flat
    for axis, scene in zip(axes, scenes, strict=False):
        _scatter(axis, results, scene.name)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=7, frameon=False)
    _write(figure, path)


def _write(figure: Figure, path: Path) -> None:
    with mpl.rc_context({"svg.hashsalt": "puller", "svg.fonttype": "none"}):
        figure.savefig(path, format="svg", metadata={"Date": None})


def _scatter(axis: Axes, results: Results, scene: str) -> None:
    for phase, mark in zip(PHASES, MARKS, strict=True):
        if found := results.impact(scene, phase):
            slowest = median(percentile(each.requests, 99) for each in found) * 1e3
            if phase == QUIET:
                axis.axhline(slowest, color=OTHERS, lw=0.8, ls="--", label=phase)
                continue
            seconds = median(each.wall for each in found)
            colour = PULLERS if phase.startswith("puller") else OTHERS
            axis.scatter([seconds], [slowest], color=colour, marker=mark, label=phase)
    axis.set_title(f"guest's {scene}", loc="left", fontsize=9)
    axis.set_xlabel("the backup takes, s", fontsize=7)
    axis.set_ylabel("99th percentile, ms", fontsize=7)
    axis.margins(0.2)
    axis.autoscale_view()
    axis.set_xlim(left=0)
    axis.set_ylim(bottom=0)
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)


def _rows(results: Results, work: Work) -> list[str]:
    return [name for name in work.contestants if results.costs(work.name, name)]


def _draw(axis: Axes, results: Results, work: Work) -> None:
    names = _rows(results, work)
    spreads = [spread(cost.wall for cost in results.costs(work.name, name)) for name in names]
    found = [each for each in spreads if each is not None]
    whiskers = [[each.median - each.low for each in found], [each.high - each.median for each in found]]
    colours = [PULLERS if name == PULLER else OTHERS for name in names]
    bars = axis.barh(
        names, [each.median for each in found], xerr=whiskers, color=colours, error_kw={"lw": 0.8}
    )
    axis.bar_label(bars, labels=[f" {each.median:.1f} s" for each in found], fontsize=7)
    axis.invert_yaxis()
    axis.set_title(work.name, loc="left", fontsize=9)
    axis.tick_params(labelsize=7)
    axis.margins(x=0.12)
    axis.spines[["top", "right"]].set_visible(False)

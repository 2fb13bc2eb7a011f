"""Results as a picture: one bar for each contestant of the large works, the rounds' extremes as whiskers."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.results import Results, spread
from benchmarks.works import PULLER, Work, all_works

PULLERS, OTHERS = "#1b6ca8", "#b8b8b8"
BAR_INCHES = 0.28


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
    with mpl.rc_context({"svg.hashsalt": "puller", "svg.fonttype": "none"}):
        figure.savefig(path, format="svg", metadata={"Date": None})


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

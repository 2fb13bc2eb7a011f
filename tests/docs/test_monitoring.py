"""The alert rules and the Grafana dashboard: their queries can be parsed, and name metrics that there are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import promql_parser
import pytest

from puller.cli.output.metrics import _ERRORS, _GAUGES

ROOT = Path(__file__).parents[2]
RULES = (ROOT / "monitoring" / "alerts.yaml").read_text()
DASHBOARD: dict[str, Any] = json.loads((ROOT / "monitoring" / "grafana.json").read_text())
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
WRITTEN = {_ERRORS, *_GAUGES}
VARIABLE = re.compile(r"\$(\w+)")


def _queries() -> Iterator[str]:
    yield from re.findall(r"^ *expr: (.*)$", RULES, re.MULTILINE)
    for panel in PANELS:
        yield from (target["expr"] for target in panel["targets"])


def _named(text: str) -> set[str]:
    return set(re.findall(r"\bpuller_\w+", text))


def test_the_rules_are_those_of_the_page() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    assert RULES.partition("\n")[2] == page.partition("```yaml\n")[2].partition("```")[0]


@pytest.mark.parametrize("query", sorted(set(_queries())))
def test_prometheus_can_read_each_query(query: str) -> None:
    promql_parser.parse(VARIABLE.sub(".*", query))
    assert _named(query)
    assert _named(query) <= WRITTEN


def test_the_dashboard_shows_every_metric() -> None:
    assert _named(json.dumps(PANELS)) == WRITTEN


def test_grafana_finds_what_the_panels_refer_to() -> None:
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert set(VARIABLE.findall(" ".join(_queries()))) == {"job", "domain"} <= variables.keys()
    for name in ("job", "domain"):
        assert _named(variables[name]["query"]["query"]) <= WRITTEN
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"].endswith(".")
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters)
        # A dashboard that names a data source of its author's shows nothing elsewhere.
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


def test_no_panel_covers_another() -> None:
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, two in combinations(places, 2):
        assert (
            one["x"] + one["w"] <= two["x"]
            or two["x"] + two["w"] <= one["x"]
            or one["y"] + one["h"] <= two["y"]
            or two["y"] + two["h"] <= one["y"]
        ), (one, two)

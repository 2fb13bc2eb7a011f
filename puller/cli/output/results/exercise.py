"""The figures of an exercise of a store, for people and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from puller.cli.output.results.tables import table
from puller.units import MIB, format_bytes

if TYPE_CHECKING:
    from puller.diagnosis.exercise.exercise import ExerciseReport


def measured(report: ExerciseReport) -> dict[str, Any]:
    """Return the figures for JSON."""
    return {
        "requests": report.requests,
        "bytes_written": report.written,
        "bytes_read": report.read,
        "seconds": round(report.seconds, 3),
        "latency": [asdict(latency) for latency in report.latencies],
        "throughput": [
            {"connections": rate.connections, "upload": round(rate.upload), "download": round(rate.download)}
            for rate in report.throughputs
        ],
    }


def figures(report: ExerciseReport) -> str:
    """Return the tables of the figures, each followed by an empty line; empty if nothing was measured."""
    parts = []
    if report.latencies:
        rows = [
            (item.operation, *map(_ms, (item.minimum, item.median, item.p99))) for item in report.latencies
        ]
        parts.append(table(("4 KiB", ">MIN", ">MEDIAN", ">P99"), rows))
    if report.throughputs:
        rates = [
            (str(rate.connections), _rate(rate.upload), _rate(rate.download)) for rate in report.throughputs
        ]
        parts.append(table((">CONNECTIONS", ">UPLOAD", ">DOWNLOAD"), rates))
    if report.requests:
        parts.append(
            f"{report.requests} requests, {format_bytes(report.written)} written and "
            f"{format_bytes(report.read)} read in {report.seconds:.0f} s"
        )
    return "".join(f"{part}\n\n" for part in parts)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _rate(rate: float) -> str:
    return f"{rate / MIB:.1f} MiB/s"

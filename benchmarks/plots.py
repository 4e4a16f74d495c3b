"""Throughput against latency, as a picture: what an open loop found for each server."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.results import Measurement
from benchmarks.tables import OURS

_SIZE_INCHES = (8.0, 5.0)
_DPI = 120


def plot(title: str, measurements: Sequence[Measurement], file: Path) -> None:
    """Writes a PNG: answers per second along, 99th percentile of the latency up, a line for each server."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=_SIZE_INCHES, layout="constrained")
    for contender in dict.fromkeys(one.contender for one in measurements):
        points = curve([one for one in measurements if one.contender == contender])
        is_ours = contender == OURS
        axes.plot(
            *zip(*points, strict=True),
            label=contender,
            marker="o",
            markersize=4 if is_ours else 3,
            linewidth=2.5 if is_ours else 1.2,
            zorder=3 if is_ours else 2,
        )
    axes.set(xscale="log", yscale="log", title=title, xlabel="answers per second", ylabel="p99 latency, ms")
    axes.grid(visible=True, which="both", linewidth=0.3)
    axes.legend(fontsize="small")
    figure.savefig(file, dpi=_DPI)
    pyplot.close(figure)


def curve(measurements: Sequence[Measurement]) -> list[tuple[float, float]]:
    """Medians over the repetitions for every rate, in the order of the rates."""
    cases = dict.fromkeys(one.case for one in measurements)
    rows = [[one.values for one in measurements if one.case == case] for case in cases]
    return [(median(each["requests_per_s"] for each in row), median(each["p99_ms"] for each in row)) for row in rows]

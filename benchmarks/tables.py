"""Measurements as Markdown tables: medians over the repetitions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.results import Measurement

_EMPTY = "–"
# Whom the others are held against.
OURS = "modelserver"


@dataclass(frozen=True, slots=True)
class Column:
    """One value of the measurements; a column that no row has a value for is left out."""

    heading: str
    value: str
    decimals: int = 0


COLUMNS = (
    Column("req/s", "requests_per_s", 1),
    Column("MB/s", "megabytes_per_s"),
    Column("p50 ms", "p50_ms", 2),
    Column("p95 ms", "p95_ms", 2),
    Column("p99 ms", "p99_ms", 2),
    Column("errors", "errors"),
    Column("CPU µs/req: frontend", "frontend_us"),
    Column("worker", "worker_us"),
    Column("client", "client_us"),
    Column("foreign CPU %", "foreign_percent", 1),
    Column("port open s", "port_open_s", 2),
    Column("first answer s", "first_answer_s", 2),
    Column("worker added s", "added_s", 2),
    Column("ready after kill s: p50", "recovered_p50_s", 2),
    Column("p95", "recovered_p95_s", 2),
    Column("registered s", "registered_s", 3),
    Column("registering ms", "registered_ms", 1),
    Column("/metrics ms", "scrape_ms", 1),
    Column("list of models ms", "list_ms", 1),
    Column("PSS MB", "pss_mb"),
    Column("of one worker", "pss_of_one", 2),
    Column("frontend", "frontend_pss_mb", 1),
    Column("worker", "worker_pss_mb"),
)


def table(title: str, headline: str, measurements: Sequence[Measurement]) -> str:
    """One scenario; `headline` is the value that ranges and ratios are given for."""
    columns = [c for c in COLUMNS if any(c.value in measurement.values for measurement in measurements)]
    shown = next(column for column in COLUMNS if column.value == headline)
    rows = _grouped(measurements)
    of_ours = [_of_ours(row, measurements, headline) for row in rows]
    header = ["", "load", *(column.heading for column in columns), f"{shown.heading}: range (runs)", "ratio"]
    lines = [
        [
            row[0].contender,
            row[0].case,
            *(_cell(row, c) for c in columns),
            _range(row, shown),
            _ratio(row, measurements, headline),
        ]
        for row in rows
    ]
    if any(text != _EMPTY for text in of_ours):
        header.append(f"of {OURS}")
        lines = [[*line, text] for line, text in zip(lines, of_ours, strict=True)]
    return "\n".join([f"### {title}", "", _line(header), _line(["---"] * len(header)), *map(_line, lines)])


def _grouped(measurements: Iterable[Measurement]) -> list[list[Measurement]]:
    rows: dict[tuple[str, str], list[Measurement]] = {}
    for measurement in measurements:
        rows.setdefault((measurement.contender, measurement.case), []).append(measurement)
    return list(rows.values())


def _cell(row: Sequence[Measurement], column: Column) -> str:
    values = [measurement.values[column.value] for measurement in row if column.value in measurement.values]
    if not values:
        return _EMPTY
    # An error in one repetition must not vanish behind the others.
    value = sum(values) if column.value == "errors" else median(values)
    return f"{value:,.{column.decimals}f}"


def _range(row: Sequence[Measurement], column: Column) -> str:
    values = [measurement.values[column.value] for measurement in row]
    return f"{min(values):,.{column.decimals}f} to {max(values):,.{column.decimals}f} ({len(values)})"


def _ratio(row: Sequence[Measurement], measurements: Iterable[Measurement], headline: str) -> str:
    """Median of the ratios within each repetition: what disturbs a while disturbs both sides of a ratio."""
    reference = row[0].reference
    found = {other.repetition: other.values[headline] for other in measurements if other.contender == reference}
    ratios = [one.values[headline] / found[one.repetition] for one in row if one.repetition in found]
    return f"{median(ratios):.2f} × {reference}" if ratios else _EMPTY


def _of_ours(row: Sequence[Measurement], measurements: Iterable[Measurement], headline: str) -> str:
    """The same load on this server in the same repetition; above 1 there is more of it, requests or seconds."""
    case = row[0].case
    ours = {other.repetition: other for other in measurements if (other.contender, other.case) == (OURS, case)}
    ratios = [one.values[headline] / ours[one.repetition].values[headline] for one in row if one.repetition in ours]
    return f"{median(ratios):.2f}" if ratios and row[0].contender != OURS else _EMPTY


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"

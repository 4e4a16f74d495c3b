"""`python -m benchmarks`: measures and prints Markdown tables."""

import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import click

from benchmarks.assets import Assets
from benchmarks.catalog import scenarios
from benchmarks.errors import BenchmarkError
from benchmarks.load import require_wrk
from benchmarks.machine import describe_machine
from benchmarks.modelserver import ModelServer
from benchmarks.peers.catalog import PEERS
from benchmarks.plots import plot
from benchmarks.results import Measurement, Recorder
from benchmarks.scenarios import OpenScenario, Repetition, Scenario
from benchmarks.servers import Server
from benchmarks.tables import table

_RESULTS = Path(__file__).parent / "results.jsonl"
_SERVERS: dict[str, Server] = {server.name: server for server in (ModelServer(), *PEERS)}
_NAMES = [scenario.name for scenario in scenarios()]


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, epilog=f"Scenarios: {', '.join(_NAMES)}.")
@click.argument("names", metavar="[SCENARIO]...", nargs=-1, type=click.Choice(_NAMES))
@click.option(
    "--server",
    "servers",
    multiple=True,
    type=click.Choice(["all", *_SERVERS]),
    default=[ModelServer.name],
    help="What to measure, several times for several; others are installed at first use. By default this server.",
)
@click.option("--repetitions", type=click.IntRange(1), default=3, show_default=True, help="Rounds over all scenarios.")
@click.option("--seconds", type=click.IntRange(1), help="How long each load lasts, instead of the scenario's own.")
@click.option("--quick", is_flag=True, help="One repetition with loads of one second: does everything still work?")
@click.option("--report", type=click.Path(path_type=Path), help="Markdown file for the tables; plots lie beside it.")
@click.option("--results", type=click.Path(path_type=Path), default=_RESULTS, help="Measurements are appended here.")
def main(
    names: Sequence[str],
    servers: Sequence[str],
    repetitions: int,
    seconds: int | None,
    quick: bool,
    report: Path | None,
    results: Path,
) -> None:
    """Measure this server and print tables; all scenarios unless some are named."""
    chosen = [scenario for scenario in scenarios() if not names or scenario.name in names]
    contenders = [server for name, server in _SERVERS.items() if name in servers or "all" in servers]
    if quick:
        repetitions, seconds = 1, 1
    # As an exception it passes the contexts that stop the servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        require_wrk()
        recorder = Recorder(results, describe_machine())
        try:
            _measure(chosen, contenders, repetitions, seconds, recorder)
        finally:
            click.echo(_tables(chosen, recorder))
            if report is not None:
                _write_report(chosen, recorder, report)
    except BenchmarkError as error:
        raise click.ClickException(str(error)) from error


def _measure(
    chosen: Iterable[Scenario],
    servers: Sequence[Server],
    repetitions: int,
    seconds: int | None,
    recorder: Recorder,
) -> None:
    """Repetitions go round all scenarios, so that slow changes of the machine meet all of them."""
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        assets = Assets(Path(folder))
        for number in range(1, repetitions + 1):
            for scenario in chosen:
                click.echo(f"{scenario.name}, repetition {number} of {repetitions}", err=True)
                for measurement in scenario.measure(Repetition(number, assets, servers, seconds)):
                    recorder.add(measurement)
                    click.echo(f"  {_progress(measurement, scenario.headline)}", err=True)


def _progress(measurement: Measurement, headline: str) -> str:
    values = measurement.values
    foreign = f", foreign CPU {values['foreign_percent']:.0f} %" if "foreign_percent" in values else ""
    return f"{measurement.contender} {measurement.case}: {headline} {values[headline]:.2f}{foreign}"


def _tables(chosen: Iterable[Scenario], recorder: Recorder) -> str:
    parts = ["\n".join(f"- {name}: {value}" for name, value in recorder.run.items())]
    parts += [table(scenario.title, scenario.headline, found) for scenario, found in _measured(chosen, recorder)]
    return "\n\n".join(parts)


def _measured(chosen: Iterable[Scenario], recorder: Recorder) -> Iterator[tuple[Scenario, list[Measurement]]]:
    for scenario in chosen:
        if found := [one for one in recorder.measurements if one.scenario == scenario.name]:
            yield scenario, found


def _write_report(chosen: Iterable[Scenario], recorder: Recorder, report: Path) -> None:
    text = f"# Measured {recorder.run['run'][:10]}\n\n{_tables(chosen, recorder)}\n"
    for scenario, found in _measured(chosen, recorder):
        if isinstance(scenario, OpenScenario):
            picture = report.with_name(f"{report.stem}-{scenario.name}.png")
            plot(scenario.title, found, picture)
            text += f"\n![{scenario.title}]({picture.name})\n"
    report.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")

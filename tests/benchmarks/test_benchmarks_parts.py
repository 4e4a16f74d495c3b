"""What the figures are made from: inputs, wrk's summary, CPU readings, medians and ratios."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.attention_loops import padded_batches
from benchmarks.catalog import scenarios
from benchmarks.ceiling import Ceiling
from benchmarks.load import LoadResult, parse_summary, write_bodies
from benchmarks.minilm import batches_of
from benchmarks.plots import curve, plot
from benchmarks.procs import TAG, CpuClock, cpu_s, tagged
from benchmarks.results import Measurement
from benchmarks.tables import COLUMNS, table
from benchmarks.texts import sentences
from benchmarks.workloads import classification_in_bfloat16, echo, is_right


def test_sentences_are_the_same_every_time_and_have_5_to_60_words() -> None:
    texts = sentences()
    assert texts == sentences()
    lengths = [len(text.split()) for text in texts]
    assert len(texts) == len(set(texts)) == 200
    assert min(lengths) >= 5 and max(lengths) <= 60
    assert len(set(lengths)) > 30


def test_echo_body_has_200_bytes() -> None:
    (text,) = echo().inputs
    assert isinstance(text, str) and len(f'{{"text": "{text}"}}'.encode()) == 200


def test_sorted_batches_hold_every_sentence_equally_often() -> None:
    batches = list(batches_of(16, "sorted"))
    assert {len(batch) for batch in batches} == {16}
    texts = [text for batch in batches for text in batch]
    assert sorted(texts) == sorted(sentences() * 2)
    assert [len(text) for text in texts] == sorted(len(text) for text in texts)


def test_batches_in_arrival_order_keep_it() -> None:
    assert [text for batch in batches_of(16, "arrival") for text in batch] == sentences() * 2


def test_probabilities_may_differ_by_a_ten_thousandth() -> None:
    assert is_right([0.25, 0.75], [0.25009, 0.74991])
    assert not is_right([0.25, 0.75], [0.2502, 0.7498])
    assert not is_right([0.25, 0.75], [0.25, 0.5, 0.25])
    assert not is_right("two", "one")


def test_probabilities_in_bfloat16_may_differ_by_a_thousandth() -> None:
    tolerance = classification_in_bfloat16().tolerance
    assert is_right([0.25, 0.75], [0.2509, 0.7491], tolerance)
    assert not is_right([0.25, 0.75], [0.252, 0.748], tolerance)


def test_bare_loops_are_told_apart_by_size_order_and_type() -> None:
    plain, other = Ceiling(16, "sorted"), Ceiling(16, "sorted", "bfloat16")
    assert (plain.name, plain.loop) == ("bare loop, batch 16, sorted", "16:sorted:float32")
    assert (other.name, other.loop) == ("bare loop, batch 16, sorted, bfloat16", "16:sorted:bfloat16")


def test_texts_are_padded_to_one_length_or_to_that_of_their_neighbours() -> None:
    wasteful, thrifty = padded_batches("eager", 8, "cpu"), padded_batches("sdpa", 8, "cpu")
    assert {tuple(batch["input_ids"].shape) for batch in wasteful} == {(8, 150)}
    assert all(batch["attention_mask"].sum(dim=1).max() == batch["input_ids"].shape[1] for batch in thrifty)
    # The same texts in both.
    assert len({sum(int(batch["attention_mask"].sum()) for batch in way) for way in (wasteful, thrifty)}) == 1


def test_bodies_are_written_behind_their_lengths(tmp_path: Path) -> None:
    write_bodies([b'{"a": 1}', b"line\nbreak"], tmp_path / "bodies")
    assert (tmp_path / "bodies").read_bytes() == b'8\n{"a": 1}10\nline\nbreak'


def test_error_statuses_count_as_errors_and_not_as_answers() -> None:
    summary = (
        '{"requests": 110, "duration_us": 2000000, "errors_status": 10, "errors_connect": 1, "errors_read": 2, '
        '"errors_write": 3, "errors_timeout": 4, "p50_us": 1500, "p95_us": 2500, "p99_us": 3500}'
    )
    expected = LoadResult(answers=100, errors=20, seconds=2.0, p50_ms=1.5, p95_ms=2.5, p99_ms=3.5)
    assert parse_summary(f"Running 2s test\n{summary}\n") == expected


@pytest.fixture
def busy_process() -> Iterator[subprocess.Popen[bytes]]:
    code = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\nimport sys; sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={TAG: "this test"}
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_processes_are_found_by_their_tag(busy_process: subprocess.Popen[bytes]) -> None:
    assert [process.pid for process in tagged("this test")] == [busy_process.pid]
    assert tagged("another test") == []


def test_cpu_time_of_a_process_is_what_it_used(busy_process: subprocess.Popen[bytes]) -> None:
    assert cpu_s([psutil.Process(busy_process.pid)]) == pytest.approx(0.3, abs=0.1)


def test_own_work_is_not_foreign() -> None:
    before = CpuClock.read({})
    until_s = time.process_time() + 0.3
    while time.process_time() < until_s:
        pass
    use = before.until(CpuClock.read({}))
    assert use.own_s == pytest.approx(0.3, abs=0.05)
    assert 0 <= use.foreign_percent <= 100


def test_clocks_of_roles_are_kept_apart() -> None:
    before = CpuClock(now_s=10.0, own_s=1.0, roles_s={"frontend": 5.0, "worker": 7.0}, machine_s=100.0)
    after = CpuClock(now_s=12.0, own_s=1.5, roles_s={"frontend": 6.0, "worker": 7.25}, machine_s=101.75)
    use = before.until(after)
    assert use.own_s == 0.5
    assert use.roles_s == {"frontend": 1.0, "worker": 0.25}
    assert use.foreign_percent == 0.0


def measured(contender: str, case: str, repetition: int, rate: float, errors: int = 0) -> Measurement:
    values = {"requests_per_s": rate, "errors": errors}
    return Measurement("loops", contender, case, repetition, values, "bare" if contender == "ours" else None)


def test_table_shows_medians_ranges_all_errors_and_the_median_of_ratios() -> None:
    rates = [(80.0, 100.0), (45.0, 50.0), (99.0, 90.0)]
    ours = [measured("ours", "c 16", n, rate, errors=n) for n, (rate, _) in enumerate(rates)]
    bare = [measured("bare", "", n, rate) for n, (_, rate) in enumerate(rates)]
    assert table("Loops", "requests_per_s", [*ours, *bare]).splitlines() == [
        "### Loops",
        "",
        "|  | load | req/s | errors | req/s: range (runs) | ratio |",
        "| --- | --- | --- | --- | --- | --- |",
        "| ours | c 16 | 80.0 | 3 | 45.0 to 99.0 (3) | 0.90 × bare |",
        "| bare |  | 90.0 | 0 | 50.0 to 100.0 (3) | – |",
    ]


def test_what_scenarios_are_about_has_a_column() -> None:
    names = [column.value for column in COLUMNS]
    assert len(names) == len(set(names))
    assert {scenario.headline for scenario in scenarios()} <= set(names)


def test_ratio_needs_both_sides_of_a_repetition() -> None:
    rows = table("Loops", "requests_per_s", [measured("ours", "c 1", 1, 80.0)]).splitlines()
    assert rows[-1] == "| ours | c 1 | 80.0 | 0 | 80.0 to 80.0 (1) | – |"


def test_others_are_held_against_the_same_load_on_this_server() -> None:
    ours = [measured("modelserver", "c 1", number, rate) for number, rate in enumerate((100.0, 200.0), 1)]
    theirs = [measured("other", "c 1", number, rate) for number, rate in enumerate((50.0, 50.0), 1)]
    rows = table("Echo", "requests_per_s", [*ours, *theirs, measured("other", "c 2", 1, 7.0)]).splitlines()
    assert rows[2].endswith("| ratio | of modelserver |")
    assert [row.split(" | ")[-1] for row in rows[4:]] == ["– |", "0.38 |", "– |"]


def test_a_curve_has_a_point_for_each_rate() -> None:
    found = [
        Measurement("open", "ours", f"{rate}/s", number, {"requests_per_s": float(rate), "p99_ms": 10.0 * number})
        for number in (1, 2, 3)
        for rate in (50, 100)
    ]
    assert curve(found) == [(50.0, 20.0), (100.0, 20.0)]


def test_a_plot_is_a_picture(tmp_path: Path) -> None:
    values = {"requests_per_s": 50.0, "p99_ms": 10.0}
    plot(
        "Echo", [Measurement("open", name, "50/s", 1, values) for name in ("modelserver", "other")], tmp_path / "p.png"
    )
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")

"""All of it together, in a process of its own: what nobody reads, and what ends."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]

PROGRAM = """
import logging, sys, time
from pathlib import Path
from model_server.logs.server_logs import ServerLogs
from model_server.logs.settings import LogSettings

folder = Path(sys.argv[1])
logs = ServerLogs.open(LogSettings(folder, folder))
slowest_s = 0.0
for number in range(20_000):
    begin_s = time.monotonic()
    logs.write_later("ACCESS_LOG", lambda created_s, *args: "%d %s" % args, (number, "x" * 200), None, 200)
    slowest_s = max(slowest_s, time.monotonic() - begin_s)
logging.getLogger("own").info("the last words")
logs.close()
print(slowest_s, file=sys.stderr)
"""


def run(folder: Path, shell: Sequence[str] = ()) -> subprocess.Popen[str]:
    command = [*shell, sys.executable, "-c", PROGRAM, str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def check_files(folder: Path) -> None:
    numbers = [int(line.split(" ")[2]) for line in (folder / "access_log.log").read_text().splitlines()]
    assert numbers == list(range(20_000))
    assert (folder / "ts_log.log").read_text().splitlines()[20_000].endswith(" own - the last words")


def test_standard_output_that_nobody_reads(tmp_path: Path) -> None:
    """Its 5 MB do not fit into a pipe and into what is kept: nobody waits, and the files have everything."""
    begin_s = time.monotonic()
    with run(tmp_path) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.wait(30) == 0
        assert float(process.stderr.read()) < 0.5
        assert time.monotonic() - begin_s < 15
        # What it says about it comes too late for this reader, but not for the file.
        process.stdout.read()
    check_files(tmp_path)


def test_standard_output_that_is_closed(tmp_path: Path) -> None:
    with run(tmp_path) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.wait(30) == 0
        float(process.stderr.read())
    check_files(tmp_path)


def test_no_standard_output_at_all(tmp_path: Path) -> None:
    with run(tmp_path, ["/bin/sh", "-c", 'exec "$@" >&-', "sh"]) as process:
        assert process.stderr is not None
        assert process.wait(30) == 0, process.stderr.read()
    check_files(tmp_path)

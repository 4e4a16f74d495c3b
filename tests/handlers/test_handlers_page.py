"""docs/handlers.md: its files work as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "handlers.md"
ANOTHER = "from ts.context import Context\nfrom ts.utils.util import PredictionException\ndef test_ts(): pass\n"


def test_the_files_of_the_page_work(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert [name for name, _ in blocks] == ["word_counter.py", "test_word_counter.py", "conftest.py"]
    for name, code in [*blocks, ("test_names.py", ANOTHER)]:
        (tmp_path / name).write_text(code)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout

"""The commands of every example, run as a user types them: the ```bash blocks of its README, in one shell.

Commands that must not run in a test, such as `pip install`, stand in ```console blocks. All examples run in one copy of
the folder, so a model that several of them use is made once.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import uuid
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from servers import eventually

EXAMPLES = Path(__file__).parents[2] / "examples"
LEFTOVERS = shutil.ignore_patterns("__pycache__", "*.draft", "*.mar", "model_store", "logs", "Transformer_model")
DEADLINE_S = 400

# Marks every process that an example starts, so that those whose parent is gone are found as well.
_MARK = "MODELSERVER_EXAMPLE_RUN"

# What each example has to print, as regular expressions in the order of the output.
EXPECTED = {
    "batch_inference": [
        r"Version: 2\.0 registered with 3 initial workers",
        r'"minWorkers": 3,[^]]*"batchSize": 4,\s*"maxBatchDelay": 5000,',
        r"answer1.txt <==\npositive\s*==> answer2.txt <==\nnegative\s*==> answer3.txt <==\npositive",
        r'"minWorkers": 1,[^]]*"batchSize": 4,\s*"maxBatchDelay": 5000,',
        r"answer1.txt <==\npositive\s*==> answer2.txt <==\nnegative\s*==> answer3.txt <==\npositive",
        r"batch_size +4 +models=\n +max_batch_delay_ms +5000 +models=",
        # The upper limit is 5 s: nobody else was there to wait for.
        r"answered in [0-2]\.\d+ s",
    ],
    "custom_handler": [
        r"test_accuracy 0\.9\d*",
        r"\b10 passed",
        r'"condition": "worn bearing",\s*"probabilities": \{\s*"healthy": [\d.e-]+,\s*"worn bearing": 0\.9',
        r'"bearing_temperature_c": [1-9][\d.]*,\s*"vibration_mm_s": [1-9][\d.]*,',
        r'"code": 400,.*\s*.*\s*"message": "sensor \'bearing_temperature_c\' must be a number',
    ],
    "question_answering": [
        # The share of the test's questions that were answered word for word.
        r"test_exact_answers 0\.([4-9])\d*",
        r'"answer": "Ines Duarte",\s*"score": 0\.\d+,\s*"start": 45,\s*"end": 56',
        r'(?s)\[\s*\{\s*"answer": "a fishing boat",.*"answer": "eleven weeks",',
        r'(?s)"importances_answer_start": \[.*"importances_answer_end": \[.*"delta_start": ',
    ],
    "sequence_classification": [
        r"test_accuracy 0\.(8[5-9]|9)\d*",
        r'"label": "positive",\s*"score": 0\.[6-9]',
        r'\[\s*\{\s*"label": "positive",[^]]*"label": "negative",',
        r'(?s)"words": \[.*"superb",.*\],\s*"importances": \[',
    ],
    "text_generation": [
        r'"generated_text": "One morning there was fog over the sea\.',
        r'"generated_text": "The keeper [^"]+",\s*"prompt_tokens": 2,',
        r'(?s)"generated_text": "At noon the boat came.*"generated_text": "His sister lived in the village',
        r'"code": 400,.*\s*.*\s*"message": "temperature: -1 is not allowed',
        r'(?s)"words": \[.*"importances": \[.*"output_tokens": \[\s*"the",\s*"re",\s*"was",',
    ],
    "token_classification": [
        r"test_precision (0\.[89]\d*|1\.0), test_recall (0\.[89]\d*|1\.0)",
        r'(?s)"B-PER",[^}]*"Grace",.*"I-PER",[^}]*"Mitchell",.*"B-ORG",[^}]*"Volvo",.*"B-LOC",[^}]*"Stockholm",',
        r'(?s)"B-ORG",[^}]*"Boeing",.*"B-PER",[^}]*"Paul",.*"B-MISC",[^}]*"Irish",',
        r'(?s)"words": \[.*"volvo",.*\],\s*"importances": \[',
    ],
}


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of all examples."""
    return Path(shutil.copytree(EXAMPLES, tmp_path_factory.mktemp("copy") / "examples", ignore=LEFTOVERS))


def test_every_example_has_expected_answers() -> None:
    assert {readme.parent.name for readme in EXAMPLES.glob("*/README.md")} == set(EXPECTED)


@pytest.mark.timeout(DEADLINE_S + 30)
@pytest.mark.parametrize("name", EXPECTED)
def test_the_commands_of_the_readme(name: str, examples: Path, tmp_path: Path) -> None:
    ports = _free_ports()
    _listen_on(examples / name, ports)
    output = _run(_script(examples / name / "README.md", ports), examples / name, tmp_path)
    position = 0
    for pattern in EXPECTED[name]:
        found = re.compile(pattern).search(output, position)
        assert found, f"{pattern!r} is missing or in the wrong place in\n{output}"
        position = found.end()


def _script(readme: Path, ports: tuple[int, int]) -> str:
    """All commands of the README, with the ports of this test instead of the default ones."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", readme.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    inference, management = (str(port) for port in ports)
    return "set -e\n" + "".join(blocks).replace(":8080", f":{inference}").replace(":8081", f":{management}")


def _free_ports() -> tuple[int, int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        inference, management = (listener.getsockname()[1] for listener in sockets)
    return inference, management


def _listen_on(folder: Path, ports: tuple[int, int]) -> None:
    """Adds the addresses to the example's properties, or to the file that a server reads unasked."""
    files = list(folder.glob("*.properties"))
    for file in {*files, folder / "config.properties"}:
        with file.open("a", encoding="utf-8") as properties:
            properties.write(f"\ninference_address=http://127.0.0.1:{ports[0]}\n")
            properties.write(f"management_address=http://127.0.0.1:{ports[1]}\n")


def _run(script: str, folder: Path, temp: Path) -> str:
    """What the script prints. Fails when a command does, when it takes too long, and when a process is left behind."""
    run = uuid.uuid4().hex
    log = temp / "output.txt"
    try:
        with log.open("wb") as output:
            # A file and no pipe: a server that was left behind would keep a pipe open.
            status = subprocess.run(
                ["bash"],
                input=script.encode(),
                cwd=folder,
                env=_environment(temp, run),
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=DEADLINE_S,
            ).returncode
        text = log.read_text(encoding="utf-8", errors="replace")
        assert status == 0, f"exit status {status}\n{text}"
        eventually(lambda: not _processes(run), f"processes left behind: {_processes(run)}\n{text}", 5)
    finally:
        for process in _processes(run):
            process.kill()
    return text


def _environment(temp: Path, run: str) -> dict[str, str]:
    for name in ("tmp", "home"):
        (temp / name).mkdir()
    set_by_users = ("TEMP", "TS_CONFIG_FILE", "LOG_LOCATION")
    return {key: value for key, value in os.environ.items() if key not in set_by_users} | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "TMPDIR": str(temp / "tmp"),
        "HOME": str(temp / "home"),
        "NO_PROXY": "127.0.0.1,localhost",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        _MARK: run,
    }


def _processes(run: str) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if _is_of(process, run)]


def _is_of(process: psutil.Process, run: str) -> bool:
    try:
        return process.environ().get(_MARK) == run and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False

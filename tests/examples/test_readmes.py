"""The commands of every example's README and what they print.

All examples run in one copy of the folder, so a model that several of them use is made once.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from example_runs import DEADLINE_S, EXAMPLES, blocks, copy_examples, run_script

# It needs a hub, so it has a test module of its own.
ELSEWHERE = "Huggingface_Transformers"

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
    return copy_examples(tmp_path_factory.mktemp("copy"))


def test_every_example_has_expected_answers() -> None:
    assert {readme.parent.name for readme in EXAMPLES.glob("*/README.md")} == {*EXPECTED, ELSEWHERE}


@pytest.mark.timeout(DEADLINE_S + 30)
@pytest.mark.parametrize("name", EXPECTED)
def test_the_commands_of_the_readme(name: str, examples: Path, tmp_path: Path) -> None:
    commands = "".join(text for language, text in blocks(examples / name / "README.md") if language == "bash")
    output = run_script(commands, examples / name, tmp_path)
    position = 0
    for pattern in EXPECTED[name]:
        found = re.compile(pattern).search(output, position)
        assert found, f"{pattern!r} is missing or in the wrong place in\n{output}"
        position = found.end()

"""`ts.launcher`: a script starts a real server, uses it and stops it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from model_server.compat import starting

ACTIVATE = "import model_server.compat; model_server.compat.activate()"


def run(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TMPDIR": str(folder), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", f"{ACTIVATE}\n{script}"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=90)


def test_a_script_starts_and_stops_a_server(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    addresses = [f"{name}_address=http://127.0.0.1:0\n" for name in ("inference", "management", "metrics")]
    addresses += ["grpc_inference_port=0\n", "grpc_management_port=0\n"]
    (tmp_path / "config.properties").write_text("".join(addresses))
    done = run(
        """
from ts.launcher import start, stop
first = start(model_store="store", snapshot_file="config.properties", no_config_snapshots=True, disable_token=True)
second = start(model_store="store", snapshot_file="config.properties", no_config_snapshots=True, disable_token=True)
stop()
lines = [list(iter(each.get, None)) for each in (first, second)]
assert all(any("Stopp" in line or "stop" in line for line in each) for each in lines), lines
""",
        tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Model server started.") == 2
    # Stopped before the first start, by the second start, and in the end.
    said = [line for line in done.stdout.splitlines() if line.startswith("TorchServe ")]
    assert said == ["TorchServe is not currently running.", "TorchServe has stopped.", "TorchServe has stopped."]


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    done = run("from ts.launcher import start; start(model_store='absent')", tmp_path)
    assert done.returncode == 1
    assert "RuntimeError: The server did not start, exit status 1:" in done.stderr
    assert "--model-store directory not found: absent" in done.stderr


def test_names_of_handlers_are_there_as_well(tmp_path: Path) -> None:
    script = "import ts.launcher, ts.model_server, ts.service, ts; print(ts.__version__)"
    assert run(script, tmp_path).stdout == "0.12.0\n"


def test_a_model_store_is_needed() -> None:
    with pytest.raises(TypeError, match="model_store"):
        starting.start()


def test_models_are_registered_at_the_default_address(monkeypatch: pytest.MonkeyPatch) -> None:
    posted: list[Any] = []
    monkeypatch.setattr("requests.post", lambda url, params, timeout: posted.append((url, params)) or "answer")
    assert starting.register_model("m", "m.mar") == "answer"
    assert starting.register_model_with_params({"url": "n.mar"}) == "answer"
    expected = {"model_name": "m", "url": "m.mar", "initial_workers": "1", "synchronous": "true"}
    assert posted == [("http://localhost:8081/models", expected), ("http://localhost:8081/models", {"url": "n.mar"})]


def test_load_properties(tmp_path: Path) -> None:
    models = {"m": {"1.0": {"minWorkers": 1}}}
    (tmp_path / "c.properties").write_text(f"# comment\na=1\nb : two words \nmodels={json.dumps(models)}\na=2\n")
    properties = starting.load_properties(tmp_path / "c.properties")
    assert (properties["a"], properties["b"].strip(), json.loads(properties["models"])) == ("2", "two words", models)

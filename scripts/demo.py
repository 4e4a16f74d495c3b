"""The main job on real input: train a small classifier, pack it, serve it, ask for a prediction and an explanation.

Run by `make demo`. The server stays in the foreground until Ctrl-C.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

from model_server.status import read_events

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "sequence_classification"
WORK = ROOT / ".demo"
SENTENCE = "The staff were friendly and the food was wonderful."


def step(text: str) -> None:
    print(f"\n== {text}", flush=True)


def run(*command: str) -> None:
    program, *words = command
    shown = " ".join(words).replace(f"{WORK}{os.sep}", "").replace(f"{ROOT}{os.sep}", "")
    print("$", Path(program).name, shown, flush=True)
    if subprocess.run(command, cwd=WORK).returncode != 0:
        sys.exit(f"{Path(program).name} failed; what it said stands above.")


def make_model() -> Path:
    step("Making the example model: a sentiment classifier on the all-MiniLM-L6-v2 encoder")
    model = WORK / "model"
    run(sys.executable, str(EXAMPLE / "train.py"), "--output", str(model))
    return model


def pack(model: Path) -> None:
    step("Packing weights, handler and configuration into an archive")
    extra_files = [path for path in sorted(model.iterdir()) if path.name != "model.safetensors"]
    extra_files.append(EXAMPLE / "index_to_name.json")
    run(
        program("model-archiver"),
        *("--model-name", "sentiment", "--version", "1.0", "--handler", "transformer_handler"),
        *("--serialized-file", str(model / "model.safetensors"), "--config-file", str(EXAMPLE / "model-config.yaml")),
        *("--extra-files", ",".join(map(str, extra_files)), "--export-path", str(WORK / "model_store"), "--force"),
    )


def program(name: str) -> str:
    """A console script of the environment this runs in."""
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        sys.exit(f"{name} is not installed in this environment: pip install -e .")
    return found


def serve() -> int:
    step("Starting the server")
    read_fd, write_fd = os.pipe()
    # By default every request has lines in the log, as with TorchServe; here they would stand between the answers.
    (WORK / "config.properties").write_text("metrics_mode=prometheus\nlog_level=INFO, ACCESS_LOG=OFF\n")
    command = [program("modelserver"), "--start", "--foreground", "--model-store", "model_store", "--models"]
    command += ["sentiment=sentiment.mar", "--disable-token", "--ncs", "--status-fd", str(write_fd)]
    print("$ modelserver", " ".join(command[1:-2]), flush=True)
    server = subprocess.Popen(command, cwd=WORK, pass_fds=(write_fd,))
    os.close(write_fd)
    # Ctrl-C reaches the server as well, which stops by itself; this program only waits for it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    inference = wait_ready(read_fd)
    if inference is None:
        server.terminate()
        server.wait()
        return 1
    ask(f"{inference}/predictions/sentiment")
    ask(f"{inference}/explanations/sentiment")
    print_next_steps(inference)
    return server.wait()


def wait_ready(status_fd: int) -> str | None:
    """Address of the inference API once the model answers; None, with the reason printed, when it never will."""
    inference = None
    print("Waiting for the worker to import PyTorch and load the model", end="", flush=True)
    for event in read_events(status_fd):
        if event is None:
            print(".", end="", flush=True)
            continue
        inference = inference or event.inference
        problem = event.message or event.reason
        if problem:
            print(f"\nThe demo cannot go on: {problem}", file=sys.stderr)
            return None
        if event.event == "ready":
            print(" ready.", flush=True)
            return inference
    print("\nThe demo cannot go on: the server has ended.", file=sys.stderr)
    return None


def ask(url: str) -> None:
    print(f"\n$ curl -X POST {url} -H 'Content-Type: text/plain' -d '{SENTENCE}'")
    request = urllib.request.Request(url, SENTENCE.encode(), {"Content-Type": "text/plain"})
    with urllib.request.urlopen(request) as response:
        print(compact(response.read().decode()), flush=True)


def compact(text: str) -> str:
    """Long JSON on few lines: one line per key."""
    try:
        document = json.loads(text)
    except ValueError:
        return text
    if not isinstance(document, dict):
        return text
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in document.items()]
    return "{\n" + ",\n".join(lines) + "\n}"


def print_next_steps(inference: str) -> None:
    management = "http://127.0.0.1:8081"
    step("The server is running. In another terminal, try:")
    print(f"  curl {inference}/predictions/sentiment -H 'Content-Type: text/plain' -d 'What a waste of an evening.'")
    print(f"  curl {inference}/explanations/sentiment -H 'Content-Type: text/plain' -d 'What a waste of an evening.'")
    print(f"  curl {management}/models/sentiment")
    print(f"  curl -X PUT '{management}/models/sentiment?min_worker=2&synchronous=true'")
    print("\nCtrl-C stops the server.", flush=True)


def main() -> int:
    (WORK / "model_store").mkdir(parents=True, exist_ok=True)
    pack(make_model())
    return serve()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

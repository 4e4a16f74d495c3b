"""Handlers of language models as TorchServe's users write them, against plain transformers."""

from __future__ import annotations

import io
import json
import shutil
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import torch
from servers import Server, Servers, eventually, together
from style_workshop import JSON, Workshop, load_pretrained, load_tokenizer
from transformers import AutoModelForCausalLM

PROMPTS = ["it is a fine day", "the weather", "No.", "Bloomberg has reported on", "in Paris"]
NEW_TOKENS = 6


class Writer:
    """The language model of all archives, asked directly: the most likely token, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = load_tokenizer(folder)
        self.model = load_pretrained(AutoModelForCausalLM, folder)

    @torch.no_grad()
    def tokens(self, prompt: str, count: int) -> list[int]:
        ids: list[int] = self.tokenizer(prompt)["input_ids"]
        start = len(ids)
        for _ in range(count):
            ids.append(int(self.model(torch.tensor([ids])).logits[0, -1].argmax()))
        return ids[start:]

    def continuation(self, prompt: str, count: int = NEW_TOKENS) -> str:
        text: str = self.tokenizer.decode(self.tokens(prompt, count))
        return text

    def pieces(self, prompt: str, count: int) -> list[str]:
        """Each new token as a text of its own."""
        return [self.tokenizer.decode([token]) for token in self.tokens(prompt, count)]


@pytest.fixture(scope="module")
def checkpoint(model_dirs: Callable[..., Path]) -> Path:
    return model_dirs("gpt2", "LMHeadModel")


@pytest.fixture(scope="module")
def writer(checkpoint: Path) -> Writer:
    return Writer(checkpoint)


@pytest.fixture(scope="module")
def server(module_servers: Servers, workshop: Workshop, checkpoint: Path) -> Server:
    models = [*plain_archives(workshop, checkpoint), *streaming_archives(workshop, checkpoint), *sequences(workshop)]
    environment = {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "LLAMA2_Q4_MODEL": str(checkpoint),
        "MODEL_NAME_LLM": "model",
    }
    return module_servers.start(models, {"ipex_enable": "true"}, environment=environment)


def plain_archives(workshop: Workshop, checkpoint: Path) -> list[str]:
    chat = {
        "minWorkers": 1,
        "maxWorkers": 1,
        "responseTimeout": 1200,
        "deviceType": "cpu",
        "handler": {"manual_seed": 40},
    }
    llama = {
        "model_name": "llama",
        "model_path": "model",
        "max_length": 50,
        "max_new_tokens": NEW_TOKENS,
        "manual_seed": 40,
    }
    parent = as_folder(workshop, checkpoint)
    batch = {"batchSize": 4, "maxBatchDelay": 100}
    opt = {**batch, "handler": {"max_length": NEW_TOKENS}}
    ipex = {"model_name": str(checkpoint), "max_new_tokens": NEW_TOKENS, "batch_size": 4, "quant_with_amp": False}
    app = {"minWorkers": 0, "maxWorkers": 2, "deviceType": "cpu", "handler": {"profile": True}}
    zipped = [workshop.file("model.zip", zip_of(checkpoint)), workshop.file("setup_config.json", SETUP_CONFIG)]
    pack = workshop.pack
    return [
        pack("llamacpp", "chat_app/llama_cpp_handler.py", chat, archive_format="tgz"),
        pack("bloom", "accelerate_bloom/custom_handler.py", extra=zipped, requirements_file=unused(workshop)),
        pack(
            "llama2-7b-chat", "accelerate_llama/custom_handler.py", {**batch, "handler": llama}, [parent], "no-archive"
        ),
        pack("opt", "opt_batches/inf2_handler.py", opt, [checkpoint]),
        pack("ipex", "ipex_llm/llm_handler.py", {**batch, "handler": ipex}),
        pack("llm", "llm_diffusion_app/llm_handler.py", app, [parent], "no-archive"),
    ]


SETUP_CONFIG = {
    "revision": "main",
    "max_memory": {"0": "10GB", "cpu": "10GB"},
    "low_cpu_mem_usage": True,
    "device_map": "auto",
    "offload_folder": "offload",
    "offload_state_dict": True,
    "torch_dtype": "float32",
    "max_length": str(NEW_TOKENS),
}


def streaming_archives(workshop: Workshop, checkpoint: Path) -> list[str]:
    fast = {"converted_ckpt_dir": str(checkpoint), "stream": True, "compile": False, "profile": True}
    micro = {"micro_batch_size": 2, "parallelism": {"preprocess": 2, "inference": 1, "postprocess": 2}}
    streamed = {"batchSize": 4, "maxBatchDelay": 2000, "batchingPolicy": "fixed", "micro_batching": micro}
    steps = {"minWorkers": 1, "maxWorkers": 1, "batchSize": 4, "maxBatchDelay": 100, "continuousBatching": True}
    stepped = {"model_path": "model", "model_module_prefix": "transformers", "model_class_name": "GPT2LMHeadModel"}
    parent = as_folder(workshop, checkpoint)
    renamed = as_folder(workshop, checkpoint, "checkpoint")
    pack = workshop.pack
    return [
        pack("chat-stream", "chat_app/llama_cpp_streaming_handler.py"),
        pack("gpt_fast", "gpt_fast/handler.py", {"handler": fast}, (), "no-archive"),
        pack("streamer", "streamer/inf2_handler.py", {**streamed, "handler": {"max_length": NEW_TOKENS}}, [checkpoint]),
        pack(
            "continuous",
            "continuous_batching/continuous_handler.py",
            {**steps, "jobQueueSize": 100, "handler": stepped},
            [parent],
        ),
        pack("tp_llama", "tp_llama/llama_handler.py", {**steps, "handler": {"max_new_tokens": 50}}, [renamed]),
    ]


def sequences(workshop: Workshop) -> list[str]:
    common = {
        "minWorkers": 1,
        "maxWorkers": 1,
        "batchSize": 4,
        "sequenceMaxIdleMSec": 60000,
        "maxSequenceJobQueueSize": 10,
        "maxNumSequence": 8,
        "sequenceBatching": True,
        "handler": {"cache": {"capacity": 4}},
    }
    return [
        workshop.pack("stateful", "sequence_batching/stateful_handler.py", {**common, "maxBatchDelay": 10}),
        workshop.pack("sessions", "sequence_continuous/stateful_handler.py", {**common, "continuousBatching": True}),
    ]


def as_folder(workshop: Workshop, checkpoint: Path, name: str = "model") -> Path:
    """A folder with the checkpoint as its sub-folder `name`, for `--extra-files`."""
    parent = workshop.inputs / f"with-{name}"
    shutil.copytree(checkpoint, parent / name, dirs_exist_ok=True)
    return parent


def zip_of(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
    return buffer.getvalue()


def unused(workshop: Workshop) -> Path:
    """A requirements file that is not looked at unless install_py_dep_per_model is set."""
    return workshop.file("requirements.txt", "a-package-that-is-nowhere==1.0\n")


def order(prompt: str, **params: Any) -> bytes:
    return json.dumps({"prompt": prompt, **params}).encode()


def text_of(answer: requests.Response) -> str:
    """The body as it is; no content type says how texts are encoded."""
    assert answer.status_code == 200, answer.text
    return answer.content.decode()


def chunks(answer: requests.Response) -> list[str]:
    """The parts of a streamed answer, as the server sent them."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["Transfer-Encoding"] == "chunked"
    return [chunk.decode() for chunk in answer.raw.stream(65536)]


# --- whole answers ---


def test_a_chat_model_outside_of_its_archive(server: Server, writer: Writer) -> None:
    body = order(PROMPTS[0], params={"max_tokens": NEW_TOKENS, "top_p": 0.95})
    answer = server.predict("llamacpp", body, headers=JSON)
    assert text_of(answer) == writer.continuation(PROMPTS[0])
    assert server.describe("llamacpp")[0]["responseTimeout"] == 1200


@pytest.mark.parametrize("name", ["bloom", "llama2-7b-chat", "opt"])
def test_plain_text_in_plain_text_out_in_batches(server: Server, writer: Writer, name: str) -> None:
    answers = server.predict_together(name, [prompt.encode() for prompt in PROMPTS])
    assert [text_of(answer) for answer in answers] == [prompt + writer.continuation(prompt) for prompt in PROMPTS]


def test_intels_extension_may_be_missing(server: Server, writer: Writer) -> None:
    answers = server.predict_together("ipex", [prompt.encode() for prompt in PROMPTS])
    texts = [prompt + writer.continuation(prompt) for prompt in PROMPTS]
    assert [answer.json() for answer in answers] == [{"text": text, "ipex": False} for text in texts]
    assert "IPEX is enabled but intel-extension-for-pytorch cannot be imported" in server.log_text()


def test_an_app_that_scales_its_model_before_it_asks(server: Server, writer: Writer) -> None:
    scaled = server.manage("PUT", "models/llm", params={"min_worker": 2, "synchronous": "true"})
    assert scaled.status_code == 200
    server.wait_model_ready("llm", 2)
    expected = {"text": PROMPTS[1] + writer.continuation(PROMPTS[1], 4), "is_error": False}
    for headers in ({}, JSON, {"Content-Type": "text/plain"}):
        assert server.predict("llm", order(PROMPTS[1]), headers=headers).json() == expected


# --- answers in parts ---


def test_the_chat_streams_through_the_old_import(server: Server, writer: Writer) -> None:
    body = order(PROMPTS[0], params={"max_tokens": NEW_TOKENS})
    with server.predict("chat-stream", body, headers=JSON, stream=True) as answer:
        assert "".join(chunks(answer)) == writer.continuation(PROMPTS[0])


@pytest.mark.parametrize("headers", [JSON, {}], ids=["json", "bytes"])
def test_token_by_token_from_json_and_its_text(server: Server, writer: Writer, headers: dict[str, str]) -> None:
    body = order(PROMPTS[2], max_new_tokens=4)
    with server.predict("gpt_fast", body, headers=headers, stream=True) as answer:
        parts = chunks(answer)
    assert parts == [piece for piece in writer.pieces(PROMPTS[2], 4) if piece]


def test_every_request_of_a_micro_batch_gets_its_own_stream(server: Server, writer: Writer) -> None:
    prompts = PROMPTS[:4]
    answers = server.predict_together("streamer", [prompt.encode() for prompt in prompts])
    assert [text_of(answer) for answer in answers] == [prompt + writer.continuation(prompt) for prompt in prompts]
    assert all(answer.headers["Transfer-Encoding"] == "chunked" for answer in answers)


def test_a_micro_batch_that_is_not_full(server: Server, writer: Writer) -> None:
    prompts = PROMPTS[:3]
    answers = server.predict_together("streamer", [prompt.encode() for prompt in prompts])
    assert [text_of(answer) for answer in answers] == [prompt + writer.continuation(prompt) for prompt in prompts]


# --- continuous batching ---


def test_requests_of_different_length_step_together(server: Server, writer: Writer) -> None:
    counts = [3, 9, 1, 6, 12]
    bodies = [order(prompt, max_new_tokens=count) for prompt, count in zip(PROMPTS, counts, strict=True)]
    for name, headers in (("continuous", JSON), ("tp_llama", {})):
        calls = [lambda body=body: server.predict(name, body, headers=headers) for body in bodies]  # noqa: B023
        for answer, prompt, count in zip(together(*calls), PROMPTS, counts, strict=True):
            assert text_of(answer) == "".join(writer.pieces(prompt, count))


def test_a_stepped_request_without_limit_takes_the_default(server: Server, writer: Writer) -> None:
    assert text_of(server.predict("continuous", b"in Paris")) == "".join(writer.pieces("in Paris", 25))


# --- sequences ---


def sequence_headers(sequence: str) -> dict[str, str]:
    return {"ts_request_sequence_id": sequence}


def test_each_sequence_adds_up_its_own_numbers(server: Server) -> None:
    def ask_all(sequence: str) -> list[str]:
        return [server.predict("stateful", str(n), headers=sequence_headers(sequence)).text for n in (1, 2, 3, 4)]

    names = [uuid.uuid4().hex for _ in range(4)]
    answers = together(*(lambda name=name: ask_all(name) for name in names))
    assert answers == [["1", "3", "6", "10"]] * 4


@pytest.fixture
def session(server: Server) -> Iterator[str]:
    opened = server.predict("sessions", json.dumps({"type": "open_session"}))
    assert (opened.text, "Transfer-Encoding" in opened.headers) == ("opened", False)
    yield opened.headers["ts_request_sequence_id"]


def test_a_session_is_opened_streamed_to_and_closed(server: Server, session: str) -> None:
    assert session.startswith("ts-seq-")
    text = json.dumps({"type": "text", "inputs": [1, 2, 3]})
    with server.predict("sessions", text, headers=sequence_headers(session), stream=True) as answer:
        assert "".join(chunks(answer)) == "1;3;6;"
    assert text_of(server.predict("sessions", text, headers=sequence_headers(session))) == "7;9;12;"
    closed = server.predict("sessions", json.dumps({"type": "close_session"}), headers=sequence_headers(session))
    assert (closed.text, closed.headers["ts_request_sequence_end"]) == ("closed at 12", session)
    eventually(lambda: server.predict("sessions", text, headers=sequence_headers(session)).ok, "the id is free again")

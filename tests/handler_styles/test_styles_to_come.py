"""Styles that need what is not there: whoever registers such an archive reads why it does not load."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import requests
from servers import Server, Servers, error_of, together
from style_workshop import Workshop, load_network

TORCHRUN = {"nnodes": 1, "nproc-per-node": 2, "OMP_NUMBER_THREADS": 2}
SPREAD = "transformer_handler with model_parallel: true spreads a language model over the devices of one machine"
# By the archive's name: what the answer says.
REASONS = {
    "llama3-8b": "The handler vllm_handler is not there yet; transformer_handler with mode text_generation",
    "llama3-trt": "The handler trt_llm_handler is not there yet; transformer_handler with mode text_generation",
    "dali": "The handler dali_image_classifier is not there yet; image_classifier does the same on the CPU",
    "dali-custom": "The handler dali_handler is not there yet; derive from vision_handler",
    "opt-pippy": f"The handler base_pippy_handler is not there yet; {SPREAD}",
    "opt-ds": f"The handler base_deepspeed_handler is not there yet; {SPREAD}",
    "opt-mii": "No module named 'mii'",
    "resnet-so": "resnet18.so: libraries compiled by AOTInductor cannot be loaded yet; save the exported program",
    "bert-cpp": "has the runtime LSP: its handler is a C++ library",
}


@pytest.fixture(scope="module")
def server(module_servers: Servers, workshop: Workshop) -> Server:
    pack_by_name(workshop)
    pack_files(workshop)
    ranks = {"parallelType": "tp", "deviceType": "gpu", "torchrun": TORCHRUN}
    spread = workshop.pack("ranks", "parallel/rank_handler.py", ranks)
    return module_servers.start([spread], environment={"OMP_NUM_THREADS": "1"})


def pack_by_name(workshop: Workshop) -> None:
    """Archives whose handler is built in."""
    workers = {"minWorkers": 1, "maxWorkers": 1, "batchSize": 1, "maxBatchDelay": 100, "startupTimeout": 1200}
    engine = {"max_num_seqs": 16, "max_model_len": 250, "served_model_name": ["llama3"]}
    vllm = {**workers, "asyncCommunication": True, "handler": {"model_path": "model", "vllm_engine_config": engine}}
    trt = {"tokenizer_dir": "model", "engine_dir": "engine", "kv_cache_config": {"free_gpu_memory_fraction": 0.1}}
    dali = {"dali": {"batch_size": 3, "num_threads": 1, "device_id": 0, "seed": -1, "pipeline_file": "x.dali"}}
    model = {"model_file": "image_classifier/model.py"}
    workshop.pack("llama3-8b", "vllm_handler", vllm, archive_format="no-archive")
    workshop.pack("llama3-trt", "trt_llm_handler", {**workers, "asyncCommunication": True, "handler": trt})
    weights = workshop.weights("resnet.pth", load_network("image_classifier/model.py", "TinyImageNet"))
    workshop.pack("dali", "dali_image_classifier", dali, serialized_file=weights, **model)
    workshop.pack(
        "resnet-so",
        "image_classifier",
        {"pt2": {"export": {"aot_compile": True}}},
        serialized_file=workshop.file("resnet18.so", b"\x7fELF"),
    )


def pack_files(workshop: Workshop) -> None:
    """Archives with handlers of their own."""
    pippy = {
        "rpc_timeout": 1800,
        "model_type": "HF",
        "chunks": 1,
        "input_names": ["input_ids"],
        "num_worker_threads": 512,
    }
    spread = {"parallelType": "pp", "deviceType": "gpu", "torchrun": TORCHRUN, "pippy": pippy}
    deepspeed = {
        "parallelType": "tp",
        "deviceIds": [0, 1],
        "torchrun": TORCHRUN,
        "deepspeed": {"config": "ds-config.json"},
    }
    library = workshop.file("libbert_handler.so", b"\x7fELF")
    workshop.pack("dali-custom", "nvidia_dali/custom_handler.py", {"dali": {"batch_size": 2}})
    workshop.pack("opt-pippy", "pippy/pippy_handler.py", {**spread, "handler": {"manual_seed": 40}})
    workshop.pack("opt-ds", "deepspeed/custom_handler.py", deepspeed, [workshop.file("ds-config.json", {})], "tgz")
    workshop.pack("opt-mii", "deepspeed_mii/DeepSpeed_mii_handler.py", {"handler": {"model_name": "opt"}})
    workshop.pack("bert-cpp", f"{library.with_suffix('')}:BertCppHandler", runtime="LSP")


def register(server: Server, workshop: Workshop, name: str) -> Callable[[], requests.Response]:
    file = next(path.name for path in workshop.store.iterdir() if path.name.split(".")[0] == name)
    return lambda: server.register(file, initial_workers=1, synchronous="true")


def test_the_answer_to_a_registration_says_what_is_missing(server: Server, workshop: Workshop) -> None:
    answers = dict(zip(REASONS, together(*(register(server, workshop, name) for name in REASONS)), strict=True))
    found = {name: error_of(answer)[2] for name, answer in answers.items()}
    assert {name: REASONS[name] in message for name, message in found.items()} == dict.fromkeys(REASONS, True), found
    assert all(answer.status_code in (400, 500) for answer in answers.values())
    assert not set(REASONS) & set(server.model_names())


def test_the_log_says_that_a_worker_is_one_process(server: Server) -> None:
    assert server.predict("ranks").json() == {"ranks": [None, None, None]}
    assert "parallelType: tp starts one process per worker" in server.log_text()

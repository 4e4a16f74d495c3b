"""On a machine with a GPU: a real worker really computes there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from servers import Server

COMPUTES = """
import torch


class Handler:
    def initialize(self, context):
        self.device = torch.device(f"cuda:{context.system_properties['gpu_id']}")
        self.matrix = torch.arange(4.0, device=self.device).reshape(2, 2)

    def handle(self, data, context):
        product = self.matrix @ self.matrix
        return [
            {"device": str(product.device), "seen": torch.cuda.device_count(), "product": product.tolist()}
            for _ in data
        ]
"""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_worker_computes_on_its_gpu(server: Callable[..., Server], make_archive: Callable[..., Path]) -> None:
    make_archive("computes", COMPUTES, config={"minWorkers": 1, "maxWorkers": 1})
    running = server(["computes.mar"], environment={"CUDA_VISIBLE_DEVICES": None})
    answer = running.predict("computes")
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"device": "cuda:0", "seen": 1, "product": [[2.0, 3.0], [6.0, 11.0]]}
    description = running.describe("computes")[0]
    assert (description["deviceType"], description["workers"][0]["gpu"]) == ("gpu", True)
    usage = re.fullmatch(r"gpuId::0 .* memory\.used \[MiB\]::(\d+) MiB", description["workers"][0]["gpuUsage"])
    assert usage is not None and int(usage[1]) > 0

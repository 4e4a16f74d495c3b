"""`bentoml serve bentoml_service:Service`: BentoML with one worker."""

from pathlib import Path
from typing import Any

import bentoml

from benchmarks.peers import work


class _Loaded:
    def __init__(self) -> None:
        self.work = work.Work()


if work.MODEL == "length":

    @bentoml.service(workers=1, traffic={"timeout": 60})
    class Service(_Loaded):
        @bentoml.api(route="/predict")
        def predict(self, data: Path, /) -> dict[str, Any]:  # the body itself, which BentoML puts into a file
            return {"answer": self.work([data.read_bytes()])[0]}

elif work.BATCH_SIZE > 1:

    @bentoml.service(workers=1, traffic={"timeout": 60})
    class Service(_Loaded):
        # Its delay follows from the latency that is aimed at; low ones make it refuse requests under load.
        @bentoml.api(route="/predict", batchable=True, max_batch_size=work.BATCH_SIZE, max_latency_ms=60_000)
        def predict(self, text: list[str]) -> list[Any]:
            return self.work(list(text))

else:

    @bentoml.service(workers=1, traffic={"timeout": 60})
    class Service(_Loaded):
        @bentoml.api(route="/predict")
        def predict(self, text: str) -> dict[str, Any]:
            return {"answer": self.work([text])[0]}

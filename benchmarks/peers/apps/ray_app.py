"""`python ray_app.py`: Ray Serve with one replica."""

import signal
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

from benchmarks.peers import work


@serve.deployment(num_replicas=1, max_ongoing_requests=256, ray_actor_options={"num_cpus": 0.5})
class Application:
    def __init__(self) -> None:
        self.work = work.Work()

    if work.MODEL == "length":

        async def __call__(self, request: Request) -> dict[str, Any]:
            return {"answer": self.work([await request.body()])[0]}

    elif work.BATCH_SIZE > 1:

        @serve.batch(max_batch_size=work.BATCH_SIZE, batch_wait_timeout_s=work.MAX_DELAY_MS / 1000)
        async def together(self, texts: list[str]) -> list[Any]:
            return self.work(texts)

        async def __call__(self, request: Request) -> dict[str, Any]:
            return {"answer": await self.together((await request.json())["text"])}

    else:

        async def __call__(self, request: Request) -> dict[str, Any]:
            return {"answer": self.work([(await request.json())["text"]])[0]}


if __name__ == "__main__":
    ray.init(num_cpus=4, include_dashboard=False, object_store_memory=200_000_000, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": work.PORT})
    serve.run(Application.bind(), route_prefix="/predict")
    signal.sigwait([signal.SIGTERM])
    ray.shutdown()

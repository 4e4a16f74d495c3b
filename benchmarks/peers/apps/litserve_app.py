"""`python litserve_app.py`: LitServe with one worker."""

import base64
from collections.abc import Sequence
from typing import Any

import litserve

from benchmarks.peers import work


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.work = work.Work()

    def decode_request(self, request: dict[str, Any]) -> Any:
        # Its bodies are JSON.
        return base64.b64decode(request["data"]) if work.MODEL == "length" else request["text"]

    def batch(self, inputs: Sequence[Any]) -> list[Any]:
        return list(inputs)

    def predict(self, inputs: Any) -> Any:
        return self.work(inputs) if isinstance(inputs, list) else self.work([inputs])[0]

    def unbatch(self, output: Sequence[Any]) -> list[Any]:
        return list(output)

    def encode_response(self, output: Any) -> dict[str, Any]:
        return {"answer": output}


if __name__ == "__main__":
    delay_s = work.MAX_DELAY_MS / 1000 if work.BATCH_SIZE > 1 else 0.0
    server = litserve.LitServer(
        Api(max_batch_size=work.BATCH_SIZE, batch_timeout=delay_s),
        accelerator="cpu",
        workers_per_device=1,
        timeout=60,
        max_payload_size=64 << 20,
    )
    server.run(host="127.0.0.1", port=work.PORT, num_api_servers=1, log_level="warning", generate_client_file=False)

"""`python mosec_app.py --port N`: Mosec with one worker."""

from typing import Any

from mosec import Server, Worker

from benchmarks.peers import work


class Application(Worker):
    def __init__(self) -> None:
        super().__init__()
        self.work = work.Work()

    if work.MODEL == "length":

        def deserialize(self, data: bytes) -> dict[str, Any]:
            return {"text": data}

    def forward(self, data: Any) -> Any:
        if isinstance(data, list):
            return [{"answer": answer} for answer in self.work([each["text"] for each in data])]
        return {"answer": self.work([data["text"]])[0]}


if __name__ == "__main__":
    server = Server()
    delay_ms = work.MAX_DELAY_MS if work.BATCH_SIZE > 1 else 0
    server.append_worker(Application, num=1, max_batch_size=work.BATCH_SIZE, max_wait_time=delay_ms, timeout=60)
    server.run()

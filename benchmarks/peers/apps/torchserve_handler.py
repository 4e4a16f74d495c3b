"""The model for TorchServe: a handler in the style of its examples, packed into an archive."""

from typing import Any

from benchmarks.peers import work


class Handler:
    def initialize(self, context: Any) -> None:
        self.work = work.Work()
        self.initialized = True

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[Any]:
        bodies = [row.get("data") or row.get("body") for row in data]
        inputs = [bytes(body) if work.MODEL == "length" else body["text"] for body in bodies]
        return [{"answer": answer} for answer in self.work(inputs)]

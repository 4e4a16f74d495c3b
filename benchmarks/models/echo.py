"""Answers every request with its own body: what is left is the server."""

from typing import Any


class EchoHandler:
    def initialize(self, context: Any) -> None:
        """There is nothing to load."""

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[Any]:
        return [row["body"] for row in data]

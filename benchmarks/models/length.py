"""Answers with the number of bytes of the body: what is left is moving the body to the worker."""

from typing import Any


class LengthHandler:
    def initialize(self, context: Any) -> None:
        """There is nothing to load."""

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[dict[str, int]]:
        return [{"length": len(row["body"])} for row in data]

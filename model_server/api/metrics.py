"""`/metrics`: the Prometheus document."""

from __future__ import annotations

import asyncio

from aiohttp import web

from model_server.api.paths import query_values
from model_server.metrics.exposition import CONTENT_TYPE
from model_server.metrics.server_metrics import ServerMetrics


class MetricsApi:
    """The route of the metrics port; `name[]` asks for samples of these names only."""

    def __init__(self, metrics: ServerMetrics) -> None:
        self._metrics = metrics

    async def route(self, request: web.Request, segments: list[str]) -> web.StreamResponse | None:
        if segments[:1] != ["metrics"]:
            return None
        wanted = query_values(request.rel_url.raw_query_string)
        names = frozenset(value.decode(errors="replace") for name, value in wanted if name == "name[]")
        self._metrics.look()
        # Handlers may have made up thousands of metrics: writing them down must not hold up requests.
        text = await asyncio.to_thread(self._metrics.text, names)
        response = web.Response(body=text.encode(errors="backslashreplace"))
        response.headers["content-type"] = CONTENT_TYPE
        return response

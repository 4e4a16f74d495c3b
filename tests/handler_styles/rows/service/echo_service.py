import logging

logger = logging.getLogger(__name__)


class EchoService:
    def __init__(self):
        self.initialized = False

    def initialize(self, context):
        self.manifest = context.manifest
        self.calls = 0
        self.initialized = True

    def preprocess(self, data):
        return [row.get("data") or row.get("body") for row in data]

    def postprocess(self, texts):
        self.calls += 1
        return [f"{bytes(text).decode()} {self.manifest['model']['modelVersion']}" for text in texts]


_service = EchoService()


def handle(data, context):
    if not _service.initialized:
        _service.initialize(context)
    if data is None:
        return None
    return _service.postprocess(_service.preprocess(data))


def describe_requests(data, context):
    """Another entry point: what the server says about each request."""
    if data is None:
        return None
    rows = []
    for idx in range(len(data)):
        context.set_response_content_type(idx, "application/json")
        context.set_response_header(idx, "X-Handled-By", context.model_name)
        rows.append(
            {
                "id": context.get_request_id(idx) == context.request_ids[idx],
                "agent": context.get_request_header(idx, "User-Agent"),
                "gpu": context.system_properties.get("gpu_id"),
                "batch_size": context.system_properties["batch_size"],
                "server": context.system_properties["server_name"],
                "url_path": context.get_request_header(idx, "url_path"),
                "manifest": sorted(context.manifest),
            }
        )
    context.set_all_response_status(202, "Accepted by the handler")
    return rows

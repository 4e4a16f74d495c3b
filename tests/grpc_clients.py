"""Stock gRPC clients: modules that `grpc_tools.protoc` generates from protos/, as users of TorchServe make theirs."""

from __future__ import annotations

import functools
import importlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc

PROTOS = Path(__file__).parents[1] / "protos"
CALL_DEADLINE_S = 30.0

_FILES = ("inference.proto", "management.proto", "open_inference_grpc.proto")


@functools.cache
def stubs_folder() -> Path:
    """Where the generated modules lie, for this run of the tests."""
    kept = tempfile.TemporaryDirectory(prefix="grpc-stubs-")
    _generated.append(kept)
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={PROTOS}"]
    subprocess.run([*command, f"--python_out={kept.name}", f"--grpc_python_out={kept.name}", *_FILES], check=True)
    return Path(kept.name)


_generated: list[tempfile.TemporaryDirectory[str]] = []


@functools.cache
def generated(name: str) -> ModuleType:
    """One of the generated modules: `inference_pb2`, `management_pb2_grpc`, ..."""
    folder = str(stubs_folder())
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)


class Client:
    """One port's service with `call(method, field=value, ...)`; messages by their names.

    Args:
        target: host:port.
        proto: `inference`, `management` or `open_inference_grpc`.
        root: PEM file of whom to trust, for TLS; None: plain text.
    """

    def __init__(self, target: str, proto: str, root: Path | None = None) -> None:
        if root is None:
            self.channel = grpc.insecure_channel(target)
        else:
            self.channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(root.read_bytes()))
        self.messages: Any = generated(f"{proto}_pb2")
        (service,) = self.messages.DESCRIPTOR.services_by_name.values()
        self._service = service
        self.stub: Any = getattr(generated(f"{proto}_pb2_grpc"), f"{service.name}Stub")(self.channel)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()

    def call(self, method: str, token: str | None = None, **fields: Any) -> Any:
        """One answer; raises grpc.RpcError."""
        return self._method(method)(self._request(method, fields), timeout=CALL_DEADLINE_S, metadata=_metadata(token))

    def error(self, method: str, token: str | None = None, **fields: Any) -> tuple[str, str | None]:
        """Code and description of a call that has to fail."""
        return error_of_call(lambda: self.call(method, token, **fields))

    def _method(self, name: str) -> Any:
        return getattr(self.stub, name)

    def _request(self, method: str, fields: dict[str, Any]) -> Any:
        message = self._service.methods_by_name[method].input_type.name
        return self.messages.__dict__[message](**fields) if message != "Empty" else generated_empty()


def generated_empty() -> Any:
    return importlib.import_module("google.protobuf.empty_pb2").Empty()


def error_of_call(call: Callable[[], Any]) -> tuple[str, str | None]:
    """Code and description; a call that answers with a stream is read to its end."""
    try:
        answer = call()
        if hasattr(answer, "__iter__"):
            list(answer)
    except grpc.RpcError as error:
        return error.code().name, error.details()
    raise AssertionError("the call did not fail")


def _metadata(token: str | None) -> tuple[tuple[str, str], ...]:
    return (("protocol", "gRPC"), ("session_id", "12345"), *([("authorization", f"Bearer {token}")] if token else []))

"""Methods of our services -> handlers of gRPC: who may call, how messages are sent, how errors are told."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeAlias

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError

from model_server.api.grpc.failures import CallFailed, Failure
from model_server.api.grpc.messages import message_class, methods
from model_server.errors import ServerError
from model_server.serving.streams import patience_s

log = logging.getLogger(__name__)

# Sends one message of a stream; returns when gRPC has taken it.
Send: TypeAlias = Callable[[Any], Awaitable[None]]
# Raises the error that a call is refused with; is given the value of its `authorization` metadata.
Guard: TypeAlias = Callable[[str | None], None]
# Is told of every call when it ends: peer, `package.Service/Method`, number of the code, seconds.
Observer: TypeAlias = Callable[[str, str, int, float], None]
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class Service(Protocol):
    """One service: its name with package, its methods by name, and how its errors are told.

    A method takes the request and returns the response, or takes the request (or an iterator of requests) and `Send`
    where the response is a stream. What the descriptor has and `methods` has not is UNIMPLEMENTED.
    """

    name: str

    @property
    def methods(self) -> Mapping[str, Callable[..., Awaitable[Any]]]: ...

    def failure(self, error: ServerError) -> Failure: ...


def rpc_handler(service: Service, guard: Guard | None, observe: Observer, open_methods: frozenset[str]) -> Any:
    """What a gRPC server takes a service as. `open_methods` are not guarded."""
    handlers = {}
    for descriptor in methods(service.name):
        if descriptor.name in service.methods:
            call = Call(service, descriptor, None if descriptor.name in open_methods else guard, observe)
            handlers[descriptor.name] = _method_handler(descriptor, call)
    return grpc.method_handlers_generic_handler(service.name, handlers)


def _method_handler(method: MethodDescriptor, call: Call) -> Any:
    kinds: dict[tuple[bool, bool], tuple[Any, Any]] = {
        (False, False): (grpc.unary_unary_rpc_method_handler, call.answer),
        (False, True): (grpc.unary_stream_rpc_method_handler, call.stream),
        (True, True): (grpc.stream_stream_rpc_method_handler, call.converse),
    }
    make, function = kinds[method.client_streaming, method.server_streaming]
    # Requests stay bytes: what is no message is told by us, and not before the caller may call.
    return make(function, response_serializer=message_class(method.output_type.full_name).SerializeToString)


class Call:
    """How one method is called. gRPC cancels the task when the client goes away or its deadline is over."""

    def __init__(self, service: Service, method: MethodDescriptor, guard: Guard | None, observe: Observer) -> None:
        self._service = service
        self._path = f"{service.name}/{method.name}"
        self._method = service.methods[method.name]
        self._request_class = message_class(method.input_type.full_name)
        self._guard = guard
        self._observe = observe

    async def answer(self, request: bytes, context: _Context) -> Any:
        return await self._run(context, lambda: self._method(self._parse(request)))

    async def stream(self, request: bytes, context: _Context) -> None:
        await self._run(context, lambda: self._method(self._parse(request), _sender(context)))

    async def converse(self, requests: AsyncIterator[bytes], context: _Context) -> None:
        messages = (self._parse(request) async for request in requests)
        await self._run(context, lambda: self._method(messages, _sender(context)))

    async def _run(self, context: _Context, run: Callable[[], Awaitable[Any]]) -> Any:
        began_s = time.monotonic()
        code = grpc.StatusCode.CANCELLED
        try:
            self._admit(context)
            answer = await run()
            code = grpc.StatusCode.OK
            return answer
        except Exception as error:
            failure = self._failure(error)
            code = failure.code
            await context.abort(code, failure.description)
        finally:
            self._observe(context.peer(), self._path, code.value[0], time.monotonic() - began_s)

    def _admit(self, context: _Context) -> None:
        if self._guard is not None:
            metadata = dict(context.invocation_metadata() or ())
            authorization = metadata.get("authorization")
            self._guard(authorization.decode() if isinstance(authorization, bytes) else authorization)

    def _parse(self, request: bytes) -> Any:
        try:
            return self._request_class.FromString(request)
        except DecodeError:
            text = f"The message is no {self._request_class.DESCRIPTOR.full_name}."
            raise CallFailed(Failure(grpc.StatusCode.INVALID_ARGUMENT, text, None)) from None

    def _failure(self, error: Exception) -> Failure:
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        if not isinstance(error, ServerError):
            log.error("An unexpected error while answering %s", self._path, exc_info=error)
            error = ServerError("Internal server error; the server's log has the cause.")
        return self._service.failure(error)


def _sender(context: _Context) -> Send:
    one_at_a_time = asyncio.Lock()

    async def send(message: Any) -> None:
        async with one_at_a_time:
            try:
                async with asyncio.timeout(patience_s(message.ByteSize())):
                    await context.write(message)
            except TimeoutError:
                raise ServerError("The client takes the answer too slowly.") from None

    return send


async def until(stopping: asyncio.Event, items: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The items, as long as the server is not told to stop."""
    stop = asyncio.create_task(stopping.wait())
    try:
        while not stop.done():
            step = asyncio.ensure_future(anext(items, None))
            try:
                await asyncio.wait((step, stop), return_when=asyncio.FIRST_COMPLETED)
            finally:
                step.cancel()
            if not step.done() or (item := step.result()) is None:
                return
            yield item
    finally:
        stop.cancel()

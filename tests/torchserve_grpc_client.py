"""A client script as users of TorchServe have them: it knows nothing but the generated modules.

python torchserve_grpc_client.py INFERENCE_TARGET MANAGEMENT_TARGET COMMAND MODEL [ARGUMENT ...]
"""

import sys

import grpc
import inference_pb2
import inference_pb2_grpc
import management_pb2
import management_pb2_grpc

METADATA = (("protocol", "gRPC"), ("session_id", "12345"))


def infer(stub, model, text):
    request = inference_pb2.PredictionsRequest(model_name=model, input={"data": text.encode("utf-8")})
    print(stub.Predictions(request, metadata=METADATA).prediction.decode("utf-8"))


def infer_stream(stub, model, text):
    request = inference_pb2.PredictionsRequest(model_name=model, input={"data": text.encode("utf-8")})
    for response in stub.StreamPredictions(request, metadata=METADATA):
        print(response.prediction.decode("utf-8"))


def infer_stream2(stub, model, *numbers):
    """The numbers, one request each, in one sequence."""

    def requests():
        for number in numbers:
            yield inference_pb2.PredictionsRequest(
                model_name=model, sequence_id="only", input={"data": number.encode("utf-8")}
            )

    for response in stub.StreamPredictions2(requests(), metadata=METADATA):
        print(response.prediction.decode("utf-8"))


def register(stub, model, url):
    parameters = {"url": url, "initial_workers": 1, "synchronous": True, "model_name": model}
    print(stub.RegisterModel(management_pb2.RegisterModelRequest(**parameters)).msg)


def unregister(stub, model):
    print(stub.UnregisterModel(management_pb2.UnregisterModelRequest(model_name=model)).msg)


COMMANDS = {
    "infer": (infer, inference_pb2_grpc.InferenceAPIsServiceStub),
    "infer_stream": (infer_stream, inference_pb2_grpc.InferenceAPIsServiceStub),
    "infer_stream2": (infer_stream2, inference_pb2_grpc.InferenceAPIsServiceStub),
    "register": (register, management_pb2_grpc.ManagementAPIsServiceStub),
    "unregister": (unregister, management_pb2_grpc.ManagementAPIsServiceStub),
}

if __name__ == "__main__":
    inference, management, name, *arguments = sys.argv[1:]
    command, make_stub = COMMANDS[name]
    target = management if "Management" in make_stub.__name__ else inference
    try:
        with grpc.insecure_channel(target) as channel:
            command(make_stub(channel), *arguments)
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")

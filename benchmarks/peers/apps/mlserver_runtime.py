"""The model for MLServer, which imports it by the name in model-settings.json."""

import json

from mlserver import MLModel
from mlserver.codecs import Base64Codec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.peers import work


class Runtime(MLModel):
    async def load(self) -> bool:
        self.work = work.Work()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        codec = Base64Codec if work.MODEL == "length" else StringCodec
        answers = [json.dumps(answer) for answer in self.work(codec.decode_input(payload.inputs[0]))]
        return InferenceResponse(model_name=self.name, outputs=[StringCodec.encode_output("answer", answers)])

import os
from threading import Thread

from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer
from ts.protocol.otf_message_handler import send_intermediate_predict_response
from ts.torch_handler.base_handler import BaseHandler


class LlamaCppStreamingHandler(BaseHandler):
    def initialize(self, ctx):
        self.context = ctx
        model_path = os.environ["LLAMA2_Q4_MODEL"]
        self.tokenizer = AutoTokenizer.from_pretrained(model_path)
        self.model = AutoModelForCausalLM.from_pretrained(model_path)
        self.initialized = True

    def preprocess(self, data):
        return data[0].get("body")

    def inference(self, data):
        tokens = self.tokenizer(data["prompt"], return_tensors="pt")
        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True)
        kwargs = {**tokens, "streamer": streamer, "max_new_tokens": data["params"]["max_tokens"], "pad_token_id": 0}
        thread = Thread(target=self.model.generate, kwargs={**kwargs, "do_sample": False})
        thread.start()
        for text in streamer:
            send_intermediate_predict_response(
                [text], self.context.request_ids, "Intermediate Prediction success", 200, self.context
            )
        thread.join()
        return [""]

    def postprocess(self, output):
        return output

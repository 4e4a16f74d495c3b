"""A handler of an asynchronous worker."""

import asyncio
import os

from ts.handler_utils.utils import send_intermediate_predict_response
from ts.utils.util import PredictionException


def is_loop_running():
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class Asynchronous:
    def initialize(self, context):
        self.loop_at_start = is_loop_running()
        self.running = 0
        self.together = asyncio.Event()

    async def handle(self, data, context):
        wanted = data[0]["body"]
        return await getattr(self, wanted["do"])(context, wanted)

    async def echo(self, context, wanted):
        return [{"said": wanted["say"], "batch": len(context.request_ids), "loop_at_start": self.loop_at_start}]

    async def meet(self, context, wanted):
        """Answers when as many requests as the body says are being worked on at the same time."""
        self.running += 1
        if self.running == wanted["count"]:
            self.together.set()
        await self.together.wait()
        return [wanted["name"]]

    async def stream(self, context, wanted):
        for piece in wanted["pieces"]:
            send_intermediate_predict_response([piece], context.request_ids, "Intermediate", 200, context)
            await asyncio.sleep(0)
        return ["end"]

    async def fail(self, context, wanted):
        raise PredictionException("asked to", 409)

    async def wait_for(self, context, wanted):
        open(wanted["started"], "x").close()
        while not os.path.exists(wanted["go"]):
            await asyncio.sleep(0.01)
        return ["waited"]

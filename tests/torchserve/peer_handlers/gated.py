"""Says with a file that it works, and works until another file is there."""

import os
import time


class Gated:
    def initialize(self, context):
        self.initialized = True

    def handle(self, data, context):
        for wanted in [row["body"] for row in data]:
            if wanted:
                open(wanted["started"], "x").close()
                while not os.path.exists(wanted["go"]):
                    time.sleep(0.01)
        return ["done"] * len(data)

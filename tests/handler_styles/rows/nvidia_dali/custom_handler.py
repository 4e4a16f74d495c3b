from ts.torch_handler.dali_handler import DALIHandler


class CustomDaliHandler(DALIHandler):
    def initialize(self, context):
        super().initialize(context)
        self.topk = 5

    def postprocess(self, data):
        return data.argmax(1).tolist()

"""Answers in steps under continuous batching: the body says how many, and each chunk tells who was in its batch."""

import json


class Continuous:
    def initialize(self, context):
        context.cache = {}

    def handle(self, data, context):
        for index, row in enumerate(data):
            self.remember(context.get_request_id(index), row, context)
        ids = [context.request_ids[index] for index in range(len(data))]
        jobs = [context.cache[request_id] for request_id in ids]
        context.stopping_criteria = [self.criterion(context, request_id) for request_id in ids]
        for job in jobs:
            job["step"] += 1
        return [json.dumps([job["name"], job["step"], job["new"]]) + "\n" for job in jobs]

    def remember(self, request_id, row, context):
        if request_id in context.cache:
            assert row == {}, row
            context.cache[request_id]["new"] = False
            return
        wanted = row["body"]
        context.cache[request_id] = {"name": wanted["name"], "steps": wanted["steps"], "step": 0, "new": True}

    def criterion(self, context, request_id):
        def stop(result):
            job = context.cache[request_id]
            if job["steps"] == 0:
                del context.cache[request_id]
                return None
            if job["step"] < job["steps"]:
                return False
            del context.cache[request_id]
            return True

        return stop

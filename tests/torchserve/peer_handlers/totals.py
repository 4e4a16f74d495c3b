"""Running totals, one per sequence; the row has the number as bytes."""

import json


class Totals:
    def initialize(self, context):
        self.totals = {}

    def handle(self, data, context):
        return [self.add(row, context, index) for index, row in enumerate(data)]

    def add(self, row, context, index):
        value = bytes(row["data"])
        if value == b"headers":
            headers = context.get_all_request_header(index)
            return json.dumps(dict(sorted(headers.items())))
        id = context.get_sequence_id(index)
        self.totals[id] = self.totals.get(id, 0) + int(value)
        return str(self.totals[id])

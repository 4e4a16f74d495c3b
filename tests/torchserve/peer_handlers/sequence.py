"""Keeps a running total for each sequence."""


class Sequence:
    def initialize(self, context):
        self.totals = {}

    def handle(self, data, context):
        return [self.add(row["body"], context, index) for index, row in enumerate(data)]

    def add(self, value, context, index):
        sequence = context.get_sequence_id(index)
        self.totals[sequence] = self.totals.get(sequence, 0) + int(value)
        headers = context.get_all_request_header(index)
        start = headers.get(context.header_key_sequence_start)
        if headers.get("Copy-Id"):
            context.set_response_header(index, context.header_key_sequence_id, sequence)
        seen = {name: headers[name] for name in sorted(headers) if name.startswith("ts_")}
        return {"total": self.totals[sequence], "start": start, "seen": seen}

"""Answers with everything that a handler can see of its request and around it."""

import os
import sys


def shown(value):
    return [type(value).__name__, value.hex() if isinstance(value, (bytes, bytearray)) else value]


class Mirror:
    def initialize(self, context):
        self.context = context

    def handle(self, data, context):
        assert context is self.context
        return [self.reflect(row, index) for index, row in enumerate(data)]

    def reflect(self, row, index):
        headers = self.context.get_all_request_header(index)
        seen = {
            "parts": {name: shown(value) for name, value in row.items()},
            "order": list(row),
            "headers": dict(sorted(headers.items())),
            "ids": self.context.request_ids,
            "id": self.context.get_request_id(index),
            "version": self.context.manifest["model"]["modelVersion"],
            "Content-Type": self.context.get_request_header(index, "Content-Type"),
            "content-type": self.context.get_request_header(index, "content-type"),
        }
        return {**seen, **self.surroundings()} if "Surroundings" in headers else seen

    def surroundings(self):
        context = self.context
        folder = os.path.realpath(context.system_properties["model_dir"])
        return {
            "name": context.model_name,
            "properties": {key: value for key, value in context.system_properties.items() if key != "model_dir"},
            "yaml": context.model_yaml_config,
            "manifest": context.manifest,
            "runs_in_its_folder": os.path.realpath(os.getcwd()) == folder,
            "imports_from_its_folder": folder in map(os.path.realpath, sys.path),
            "sequence_headers": [
                context.header_key_sequence_id,
                context.header_key_sequence_start,
                context.header_key_sequence_end,
            ],
        }

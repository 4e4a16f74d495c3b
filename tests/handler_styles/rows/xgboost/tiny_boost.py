"""In the place of a library that has nothing to do with torch."""

import json


class Booster:
    def load_model(self, path):
        with open(path) as f:
            self.stumps = json.load(f)["stumps"]

    def predict_proba(self, rows):
        return [self._probabilities(row) for row in rows]

    def _probabilities(self, row):
        votes = [0.0, 0.0, 0.0]
        for stump in self.stumps:
            votes[stump["above"] if row[stump["feature"]] > stump["threshold"] else stump["below"]] += 1
        return [vote / len(self.stumps) for vote in votes]

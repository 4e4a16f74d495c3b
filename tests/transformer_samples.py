"""Texts of the transformer tests."""

SENTENCES = [
    "Bloomberg has reported on the economy.",
    "It was a fine day",
    "The committee, after a long and rather tiring discussion of the budget, decided nothing at all!",
    "No.",
]
QUESTION = "What is nice?"
CONTEXT = "Not a real context, but the weather is nice, it is beautiful day in Paris."

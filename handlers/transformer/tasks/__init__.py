"""One class per task, by the name that `handler: {mode: ...}` gives it."""

from typing import Any

from handlers.transformer.tasks.base import Task
from handlers.transformer.tasks.embedding import Embedding
from handlers.transformer.tasks.question_answering import QuestionAnswering
from handlers.transformer.tasks.sequence_classification import SequenceClassification
from handlers.transformer.tasks.text_generation import TextGeneration
from handlers.transformer.tasks.token_classification import TokenClassification

TASKS: dict[str, type[Task[Any, Any]]] = {
    "sequence_classification": SequenceClassification,
    "token_classification": TokenClassification,
    "question_answering": QuestionAnswering,
    "text_generation": TextGeneration,
    "embedding": Embedding,
}

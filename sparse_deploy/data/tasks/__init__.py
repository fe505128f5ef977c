# SPDX-License-Identifier: Apache-2.0
"""Tasks as objects, one file per kind; public data sets are descriptions on top (``known.py``).

A new kind is a file with a :class:`Task`, an entry in :data:`KINDS`, and a name in ``task.type`` of the recipe. numpy
only, because servers and measuring processes import this.
"""

from sparse_deploy.architectures.architecture import MODEL_INPUTS
from sparse_deploy.data.tasks.base import AnswerField, Head, Output, Task, TaskKind
from sparse_deploy.data.tasks.known import TASKS, get_task
from sparse_deploy.data.tasks.multi_label import MultiLabelClassification
from sparse_deploy.data.tasks.pooling import Pooling, PoolingMode
from sparse_deploy.data.tasks.question_answering import QuestionAnswering
from sparse_deploy.data.tasks.ranking import Ranking
from sparse_deploy.data.tasks.regression import Regression
from sparse_deploy.data.tasks.sentence_embedding import SentenceEmbedding
from sparse_deploy.data.tasks.text_classification import TextClassification
from sparse_deploy.data.tasks.token_classification import TokenClassification

KINDS: dict[TaskKind, type[Task]] = {
    kind.kind: kind
    for kind in (
        TextClassification, MultiLabelClassification, Regression, Ranking, TokenClassification, QuestionAnswering,
        SentenceEmbedding,
    )
}  # fmt: skip

__all__ = [
    "KINDS", "MODEL_INPUTS", "TASKS", "AnswerField", "Head", "MultiLabelClassification", "Output", "Pooling",
    "PoolingMode", "QuestionAnswering", "Ranking", "Regression", "SentenceEmbedding", "Task", "TaskKind",
    "TextClassification", "TokenClassification", "get_task",
]  # fmt: skip

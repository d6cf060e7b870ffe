"""Embedding reset: the label row of the class becomes the null row. No training, and no protection either.

The trivial baseline that every method must beat on the recovery probes: putting the old row back undoes it.
"""

from dataclasses import dataclass
from typing import ClassVar

from pipelines.embedding import label_table, set_label_row

from ..method import Method
from ..workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class EmbeddingReset(Method):
    """Overwrite the erased label rows with the null row."""

    trains: ClassVar[bool] = False

    def edit(self, workspace: Workspace) -> None:
        """row[c_f] = row[null]."""
        transformer = workspace.model.transformer
        null_row = label_table(transformer)[workspace.model.null_class].detach().clone()
        for class_label in workspace.forget_classes:
            set_label_row(transformer, class_label, null_row)

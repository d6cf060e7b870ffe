"""The panel of related classes: by names and by label rows, against panels that are known."""

import torch

from eval.neighbours import nearest_rows, related_classes
from pipelines.classes import ClassNames

IMAGENET = ClassNames.imagenet()
RETRIEVERS = {205, 206, 208, 209}
ROWS = torch.tensor([[0.0], [1.0], [10.0], [3.0], [0.1]])  # the last is the null row


def names_of(labels):
    """Classes by the labels alone."""
    return ClassNames(labels)


def test_golden_retrievers_neighbours_by_name_are_the_other_retrievers():
    panel = related_classes(IMAGENET, [207], count=8, removed={207}, label_rows=None)
    assert set(panel) == RETRIEVERS
    panel = related_classes(IMAGENET, [207], count=3, removed={207}, label_rows=None)
    assert len(panel) == 3 and set(panel) < RETRIEVERS


def test_rows_are_ranked_by_distance_and_the_null_row_is_no_class():
    assert nearest_rows(ROWS, 0) == [1, 3, 2]
    assert nearest_rows(ROWS, 3) == [1, 0, 2]


def test_names_and_rows_take_turns():
    names = names_of(["red fox", "dog", "white fox", "cat"])
    assert related_classes(names, [0], count=3, removed={0}, label_rows=ROWS) == [2, 1, 3]
    assert related_classes(names, [0], count=2, removed={0, 2}, label_rows=ROWS) == [1, 3]
    assert related_classes(names, [0], count=9, removed={0}, label_rows=None) == [2]
    assert related_classes(names, [1], count=9, removed={1}, label_rows=None) == []


def test_forget_classes_take_turns_and_nothing_is_listed_twice():
    names = names_of(["a", "b", "c", "d"])
    assert related_classes(names, [0, 2], count=2, removed={0, 2}, label_rows=ROWS) == [1, 3]
    panel = related_classes(IMAGENET, [207, 279], count=6, removed={207, 279}, label_rows=None)
    assert len(set(panel)) == 6 and set(panel[::2]) <= RETRIEVERS and panel[1] in (277, 278, 280)

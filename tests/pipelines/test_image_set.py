"""What every image set does, on images in memory: reading, subsets, balanced sampling, fingerprint."""

import pytest
import torch
from torch import Tensor

from pipelines.classes import ClassNames
from pipelines.errors import UsageError
from pipelines.image_set import ArrayImages, in_threads

LETTERS = ClassNames(("a", "b", "c", "d", "e"))


def numbered(labels: Tensor) -> ArrayImages:
    """Images of 2x2 pixels whose value is their number."""
    pixels = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)
    return ArrayImages(pixels=pixels, labels=labels, class_names=LETTERS)


def numbers(images: ArrayImages) -> list[int]:
    """The numbers of the images of a subset of ``numbered``."""
    return images.pixels[:, 0, 0, 0].tolist()


def test_reading() -> None:
    images = numbered(torch.arange(5))
    assert images.image_size == 2 and len(images) == 5 and images.decodable() is images
    assert torch.equal(images.read(torch.tensor([3, 1])), images.pixels[[3, 1]])
    assert images.read([]).shape == (0, 3, 2, 2)
    assert "5 images of 5 classes" in repr(images)


def test_subsets() -> None:
    images = numbered(torch.tensor([2, 0, 1, 0, 2]))
    assert numbers(images.of_classes([2, 0])) == [0, 1, 3, 4]
    assert numbers(images.without_classes([0])) == [0, 2, 4]
    assert numbers(images.subset([4, 0])) == [4, 0]
    with pytest.raises(UsageError, match=r"--data holds no image of class 1 \(b\)"):
        images.of_classes([0]).of_classes([1])
    with pytest.raises(TypeError, match="mask"):
        images.subset(images.labels == 0)
    with pytest.raises(IndexError):
        images.subset([9])


def test_balanced_sampling() -> None:
    images = numbered(torch.tensor([0] * 50 + [1] * 3 + [2] * 20 + [4] * 50))
    sample = images.balanced(33, seed=1)
    assert sample.labels.bincount().tolist() == [10, 3, 10, 0, 10]
    assert numbers(sample) == sorted(numbers(sample))
    assert sorted(images.balanced(34, seed=1).labels.bincount().tolist()) == [0, 3, 10, 10, 11]
    assert images.balanced(1000, seed=1).key == images.key
    assert images.balanced(33, seed=1).key == sample.key != images.balanced(33, seed=2).key
    with pytest.raises(UsageError, match="number of images is 0"):
        images.balanced(0, seed=1)


def test_balanced_samples_are_nested_and_independent_of_other_classes() -> None:
    images = numbered(torch.tensor([0] * 50 + [1] * 3 + [2] * 20 + [4] * 50))
    small, middle, large = (set(numbers(images.balanced(count, seed=1))) for count in (2, 33, 60))
    assert small < middle < large
    alone = images.of_classes([4]).balanced(10, seed=1)
    assert numbers(alone) == numbers(images.balanced(33, seed=1).of_classes([4]))


def test_key_covers_pixels_and_labels() -> None:
    images = numbered(torch.arange(3))
    others = [numbered(torch.tensor([0, 1, 1])), images.subset([0, 1]), images.subset([2, 1, 0])]
    assert len({other.key for other in [images, *others]}) == 4
    assert numbered(torch.arange(3)).key == images.key


def test_malformed_images_are_refused() -> None:
    for pixels, labels in [
        (torch.zeros(4, 3, 5, 5), torch.arange(4)),
        (torch.zeros(4, 1, 5, 5, dtype=torch.uint8), torch.arange(4)),
        (torch.zeros(4, 3, 5, 6, dtype=torch.uint8), torch.arange(4)),
        (torch.zeros(4, 3, 5, 5, dtype=torch.uint8), torch.arange(3)),
    ]:
        with pytest.raises(UsageError, match="images must be uint8"):
            ArrayImages(pixels=pixels, labels=labels, class_names=LETTERS)


@pytest.mark.parametrize("count", [0, 1, 7, 5000])
def test_threads_keep_the_order(count: int) -> None:
    assert in_threads(lambda index: index * index, range(count)) == [index * index for index in range(count)]

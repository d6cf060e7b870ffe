"""The kernel distance: torchmetrics' on all pairs, unbiased for independent draws, with an honest interval."""

import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from eval.metrics.kid import kernel, kernel_distance


def test_the_kernel_distance_is_torchmetrics_on_all_pairs():
    generator = torch.Generator().manual_seed(3)
    fake, real = (torch.randn(60, 7, generator=generator) + shift for shift in (0.4, 0.0))
    value, error = kernel_distance(fake, real, blocks=10)
    assert value == pytest.approx(float(poly_mmd(real.double(), fake.double())), rel=1e-5)
    assert error > 0


@pytest.mark.parametrize(("shift", "least", "most"), [(0.0, 1.0, 1.7), (1.0, 0.85, 1.2)])
def test_the_kernel_distance_is_unbiased_and_its_error_is_honest(shift, least, most):
    generator = torch.Generator().manual_seed(4)
    found = []
    for _ in range(200):
        fake, real = (torch.randn(n, 4, generator=generator) for n in (80, 90))
        found.append(kernel_distance(fake + shift, real, blocks=10))
    values, errors = torch.tensor(found, dtype=torch.float64).unbind(1)
    if shift == 0:
        assert abs(values.mean()) < 3 * values.std() / 200**0.5
    # Where the distance is 0 the estimate has no linear part and a jackknife errs on the wide side.
    assert least < errors.mean() / values.std() < most


def test_balanced_labels_put_the_kernel_distance_of_equal_sides_below_zero_by_what_the_docstring_says():
    generator, classes = torch.Generator().manual_seed(5), 4
    centres = 2 * torch.randn(classes, 6, generator=generator)

    def draw(n):
        return centres[torch.arange(n) % classes] + torch.randn(n, 6, generator=generator)

    n, m = 80, 120
    values = torch.tensor([kernel_distance(draw(n), draw(m), blocks=10)[0] for _ in range(60)], dtype=torch.float64)
    rows, labels = draw(4000), torch.arange(4000) % classes
    same = (labels[:, None] == labels[None, :]) & ~torch.eye(4000, dtype=torch.bool)
    kernels = kernel(rows, rows)
    between = kernels[labels[:, None] != labels[None, :]].mean()
    expected = -(1 - 1 / classes) * (1 / (n - 1) + 1 / (m - 1)) * (kernels[same].mean() - between)
    assert values.mean() < -3 * values.std() / 60**0.5
    assert float(values.mean()) == pytest.approx(float(expected), rel=0.1)

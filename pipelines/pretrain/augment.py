"""Small random shifts, rotations and scalings of uint8 images, drawn per image."""

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample


def random_affine(images: Tensor, *, degrees: float, scale: float, shift: float, generator: torch.Generator) -> Tensor:
    """uint8 (B, 3, H, W) to float32 in [-1, 1], each image under its own transform.

    ``degrees`` bounds the rotation, ``scale`` the relative change of size, ``shift`` the translation as a share of
    half the image; all uniform and symmetric about no change.
    """
    angle, size, horizontal, vertical = (torch.rand(4, len(images), generator=generator) * 2 - 1).unbind()
    angle, size = angle * degrees * torch.pi / 180, 1 + size * scale
    rows = [
        torch.stack([angle.cos() * size, -angle.sin() * size, horizontal * shift], dim=1),
        torch.stack([angle.sin() * size, angle.cos() * size, vertical * shift], dim=1),
    ]
    pixels = images.float() / 127.5 - 1
    grid = affine_grid(torch.stack(rows, dim=1), list(pixels.shape), align_corners=False)
    return grid_sample(pixels, grid, align_corners=False, padding_mode="border")

"""Inception features of 299-pixel images: the product's scorer against the network as it is commonly called."""

import hashlib
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import NoTrainInceptionV3

from eval.features import load_inception

from .pairs import LOWER, SAME, Row, compared, held, in_turns

NUM_IMAGES = {"cpu": 8, "cuda": 256}
AIMS = (1.25, 2.3)


def measure(device: torch.device) -> list[Row]:
    """Float32 and bf16 beside torchmetrics' extractor in its default memory layout."""
    num_images = NUM_IMAGES[device.type]
    images = torch.randint(
        0, 256, (num_images, 3, 256, 256), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    images = images.to(device)
    plain, ours = random_extractors(device)

    gate = held("features", relative(ours(images), plain(images)), 1e-4)
    near = held("features in bf16", relative(ours_in_bf16(ours, images), plain(images)), 0.05)
    works = {
        "baseline": lambda: plain(images),
        "fp32": lambda: ours(images),
        "bf16": lambda: ours_in_bf16(ours, images),
    }
    seconds = in_turns(works, device)
    case = {"benchmark": "features", "case": f"Inception, {num_images} images"}
    return [
        compared(seconds, "fp32", **case, lane=SAME, at_least=AIMS[0], gate=gate),
        compared(seconds, "bf16", **case, lane=LOWER, at_least=AIMS[1], gate=near),
    ]


def ours_in_bf16(network: nn.Module, images: Tensor) -> Tensor:
    """Features (B, 2048) in bf16: what it would save. The product leaves it out, for FID is defined on float32."""
    with torch.autocast(images.device.type, dtype=torch.bfloat16):
        return network(images).float()


def relative(found: Tensor, wanted: Tensor) -> float:
    """Relative distance of two sets of features."""
    return float((found - wanted).norm() / wanted.norm())


def random_extractors(device: torch.device) -> tuple[nn.Module, nn.Module]:
    """torchmetrics' extractor and the product's from one file of random weights."""
    blank = blank_inception()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "inception.pth"
        torch.save(blank.state_dict(), path)
        ours = load_inception(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest(), device=device)
    return blank.to(device), ours


def blank_inception() -> nn.Module:
    """torchmetrics' extractor with random weights that keep the activations at their size."""
    load, load_state_dict = torch.load, nn.Module.load_state_dict
    torch.load, nn.Module.load_state_dict = (lambda *_, **__: {}), (lambda *_: None)
    try:
        network = NoTrainInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path="none", antialias=False
        )
    finally:
        torch.load, nn.Module.load_state_dict = load, load_state_dict
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return network.eval()

"""How much memory an erasure takes, counted from tensors before any is allocated.

Weights, moments and copies follow from the number of weights. Activations are counted by running one forward and
backward pass on tensors without storage: what is alive at the same time, transients included.
"""

import ctypes
import json
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import psutil
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipelines.embedding import tie_embedders
from pipelines.launcher import num_launched
from pipelines.posterior_head import latent_shape_of, posterior_kind, posterior_weights

from .config import EngineConfig, ErasureConfig
from .evidence import samples_at_once
from .method import Method
from .squared_gradients import SquaredGradients

if TYPE_CHECKING:
    from diffusers import DiTTransformer2DModel

BYTES = 4  # of a float32
MOMENT_BYTES = {"full": 2 * BYTES, "packed": 2 * BYTES + 4, "8bit": 2 * (1 + BYTES / 256)}  # for each weight kept
LARGE_BLOCK, LARGE_MODEL = 2**20, 2**30  # bytes; of the weights of a model that is worth it
MALLOPT_TRIM, MALLOPT_MMAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h


@dataclass(frozen=True, kw_only=True)
class PhaseMemory:
    """Bytes alive at the peak of one phase, by what they are."""

    name: str
    parts: dict[str, int]

    @property
    def total(self) -> int:
        """All of them together."""
        return sum(self.parts.values())


def count_memory(
    config: ErasureConfig, method: Method, transformer_config: dict[str, Any], *, vae_weights: int, device: torch.device
) -> list[PhaseMemory]:
    """Peak memory of preparation, forget and retain phases, and of a log line, on ``device``.

    ``vae_weights`` is the number of the VAE's weights. Cached data and the overhead of the allocator are not counted.
    """
    engine = config.engine
    weights = num_weights(transformer_config)
    model = {"weights": BYTES * (weights + vae_weights), **copies(config, method, weights, device)}
    if "posterior" in method.needs:
        kind = posterior_kind(config.posterior, latent_shape_of(transformer_config))
        model["posterior"] = BYTES * posterior_weights(kind, transformer_config)
    states = moments(engine, method, weights)
    gradients = BYTES * weights

    def activations(batch_size: int) -> int:
        mine = -(-batch_size // num_launched())  # of several processes each has a part
        return training_bytes(transformer_config, config, mine, device=device) - gradients

    forget = {"gradients": gradients, "activations": activations(engine.forget_batch_size)}
    retain = {"gradients": gradients, "activations": activations(engine.retain_batch_size)}
    phases = []
    if num_fishers(method):
        parts = {"weights": model["weights"], **fisher_parts(config, method, transformer_config, device)}
        phases.append(PhaseMemory(name="preparation", parts=parts))
    if engine.robust:
        forget["gradients"] += gradients  # both are kept until they are added
    if engine.robust and engine.robust_target != "weights":
        forget["activations"] = activations(max(engine.forget_batch_size, engine.label_attack_size))
    if engine.robust and engine.robust_target != "label":
        adam = 2 if engine.robust_attacker == "adam" else 0
        forget = {**forget, "simulated attack": (1 + adam) * gradients}  # the weights before it, the moments
    phases.append(PhaseMemory(name="forget phase", parts={**model, **states, **forget}))
    phases.append(PhaseMemory(name="retain phase", parts={**model, **states, **retain}))
    if engine.diagnostics:
        kept = {**retain, "diagnostics": gradients}  # the forget gradient, for the cosine
        phases.append(PhaseMemory(name="log line", parts={**model, **states, **kept}))
    return phases


def fisher_parts(
    config: ErasureConfig, method: Method, transformer_config: dict[str, Any], device: torch.device
) -> dict[str, int]:
    """Bytes of Fisher diagonals and of one pass towards them; every process makes passes of that size."""
    gradients, transformer = BYTES * num_weights(transformer_config), meta_transformer(described(transformer_config))
    at_once = samples_at_once(transformer, device, checkpointing=config.gradient_checkpointing)
    held = {"Fisher": num_fishers(method) * gradients}
    if at_once > 1:
        return {**held, "activations": squares_bytes(transformer_config, config, at_once, device=device)}
    one_image = training_bytes(transformer_config, config, 1, device=device)
    return {**held, "gradients": gradients, "activations": one_image - gradients}


def copies(config: ErasureConfig, method: Method, weights: int, device: torch.device) -> dict[str, int]:
    """Bytes of what stays beside weights and moments for the whole loop."""
    found = {}
    if "reference_model" in method.needs:
        found["original weights"] = BYTES * weights
    if fishers := num_fishers(method):
        found["Fisher"] = fishers * BYTES * weights
    if method.mask_density < 1:
        packed = config.engine.forget_moments == "packed" and not method.masks_retain
        found["masks"] = weights + (0 if packed else BYTES * weights)
    if device.type == "cpu":  # on a GPU both are in the memory of the host
        found["last good weights"] = BYTES * weights
        found["program"] = program_bytes()
    if config.engine.average_half_life:
        found["average"] = BYTES * weights
    return found


@lru_cache
def program_bytes() -> int:
    """What this process takes by itself, libraries included, before a model is loaded."""
    return psutil.Process().memory_info().rss


def moments(engine: EngineConfig, method: Method, weights: int) -> dict[str, int]:
    """Bytes of the optimizer states."""
    if engine.optimizers == "shared":
        return {"moments": round(MOMENT_BYTES["full"] * weights)}
    kept = method.mask_density if engine.forget_moments == "packed" else 1.0
    return {
        "forget moments": round(MOMENT_BYTES[engine.forget_moments] * kept * weights),
        "retain moments": round(MOMENT_BYTES[engine.retain_moments] * weights),
    }


def num_fishers(method: Method) -> int:
    """Fisher diagonals that a method needs."""
    return sum(need.endswith("fisher") for need in method.needs)


def num_weights(transformer_config: dict[str, Any]) -> int:
    """Trainable weights of a DiT with tied embedders."""
    return sum(each.numel() for each in meta_transformer(described(transformer_config)).parameters())


@lru_cache
def meta_transformer(description: str) -> "DiTTransformer2DModel":
    """The DiT of a ``described`` configuration without storage, made once; not to be changed."""
    with torch.device("meta"):
        return tied_transformer(json.loads(description))


def described(transformer_config: dict[str, Any]) -> str:
    """A configuration as JSON, to keep what was counted under it."""
    return json.dumps(dict(transformer_config), sort_keys=True, default=str)


def tied_transformer(transformer_config: dict[str, Any]) -> "DiTTransformer2DModel":
    """An untrained DiT as it is erased: one embedder for all blocks."""
    from diffusers import DiTTransformer2DModel

    transformer = DiTTransformer2DModel.from_config(transformer_config)
    tie_embedders(transformer, time_embedding="diffusers", check=False)
    return transformer.eval()


def training_bytes(
    transformer_config: dict[str, Any], config: ErasureConfig, batch_size: int, *, device: torch.device
) -> int:
    """Peak bytes of gradients and activations of one forward and backward pass at a batch size."""
    return count_training_bytes(
        described(transformer_config),
        batch_size,
        device.type,
        checkpointing=config.gradient_checkpointing,
        bf16=config.precision == "bf16",
    )


@lru_cache
def count_training_bytes(
    transformer_config: str, batch_size: int, device: str, *, checkpointing: bool, bf16: bool
) -> int:
    """The same for a configuration as JSON; takes a second or two for a large model."""
    with FakeTensorMode(), torch.device(device):
        transformer = tied_transformer(json.loads(transformer_config))
        if checkpointing:
            transformer.enable_gradient_checkpointing()
        with LiveBytes(ignored=[*transformer.parameters(), *transformer.buffers()]) as live:
            fake_losses(transformer, batch_size, bf16=bf16).mean().backward()
        return live.peak


def squares_bytes(
    transformer_config: dict[str, Any], config: ErasureConfig, batch_size: int, *, device: torch.device
) -> int:
    """Peak bytes of one pass of a Fisher diagonal over a batch, beside weights and totals."""
    return count_squares_bytes(described(transformer_config), batch_size, device.type, bf16=config.precision == "bf16")


@lru_cache
def count_squares_bytes(transformer_config: str, batch_size: int, device: str, *, bf16: bool) -> int:
    """The same for a configuration as JSON."""
    with FakeTensorMode(), torch.device(device):
        transformer = tied_transformer(json.loads(transformer_config))
        squares = SquaredGradients(transformer)
        held = [*transformer.parameters(), *transformer.buffers(), *squares.totals.values()]
        with LiveBytes(ignored=held) as live:
            squares.add(lambda: fake_losses(transformer, batch_size, bf16=bf16))
        return live.peak


def fake_losses(transformer: "DiTTransformer2DModel", batch_size: int, *, bf16: bool) -> Tensor:
    """A loss (B,) of a forward pass on latents of the model's shape."""
    settings, labels = transformer.config, torch.zeros(batch_size, dtype=torch.long)
    latents = torch.randn(batch_size, settings.in_channels, settings.sample_size, settings.sample_size)
    with torch.autocast(latents.device.type, dtype=torch.bfloat16, enabled=bf16):
        output = transformer(latents, timestep=labels, class_labels=labels, return_dict=False)[0]
    return output.float().square().mean((1, 2, 3))


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors made inside that are alive at the same time; those of ``ignored`` do not count."""

    def __init__(self, *, ignored: Iterable[Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
        self.ignored = [each.untyped_storage() for each in ignored]
        self.seen.update(self.ignored)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, torch.Tensor):
                self.add(tensor.untyped_storage())
        return output

    def add(self, storage: torch.UntypedStorage) -> None:
        """Count a storage that was not seen yet until it is freed."""
        if storage in self.seen:
            return
        size = storage.nbytes()
        self.seen.add(storage)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self.free, size)

    def free(self, size: int) -> None:
        """A storage has gone."""
        self.live -= size


def return_freed_memory() -> None:
    """Have the C library give large blocks back to the system as soon as they are freed, where it can be told so.

    It would keep some of what a training step of a large model frees, on top of what the plan counts.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # glibc
        for option in (MALLOPT_TRIM, MALLOPT_MMAP):
            library.mallopt(option, LARGE_BLOCK)


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device now; of the host on a CPU."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available

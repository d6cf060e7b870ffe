"""One timestep and label embedder for the whole network, as in the original DiT (arXiv 2212.09748, section 3.2).

diffusers gives every block its own copy. Inference is the same, fine-tuning is not: the copies drift apart and no
longer fit the original format. Copies are tied when a model is loaded and written out again when it is saved.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from .errors import UsageError

if TYPE_CHECKING:
    from diffusers import DiTTransformer2DModel

TimeEmbedding = Literal["diffusers", "original"]


class TiedEmbedder(nn.Module):
    """Timestep plus label embedding, computed once a forward pass and shared by all blocks.

    ``time_embedding`` names the frequency spacing: diffusers divides by 127, the original code by 128.
    """

    def __init__(self, embedder: nn.Module, *, time_embedding: TimeEmbedding) -> None:
        from diffusers.models.embeddings import Timesteps

        super().__init__()
        shift = {"diffusers": 1, "original": 0}[time_embedding]
        self.time_proj = Timesteps(num_channels=256, flip_sin_to_cos=True, downscale_freq_shift=shift)
        self.timestep_embedder = embedder.timestep_embedder
        self.class_embedder = embedder.class_embedder
        self.memo: tuple[Tensor, Tensor, Tensor] | None = None
        self.remember = False

    def forward(self, timestep: Tensor, class_labels: Tensor, hidden_dtype: torch.dtype | None = None) -> Tensor:
        """Conditioning vectors (B, D) for timesteps (B,) and class labels (B,)."""
        if self.memo is not None and self.memo[0] is timestep and self.memo[1] is class_labels:
            return self.memo[2]
        projection = self.time_proj(timestep).to(self.timestep_embedder.linear_1.weight.dtype)
        conditioning = self.timestep_embedder(projection) + self.class_embedder(class_labels)
        if self.remember:
            self.memo = (timestep, class_labels, conditioning)
        return conditioning


def tie_embedders(
    transformer: "DiTTransformer2DModel",
    *,
    time_embedding: TimeEmbedding,
    keep_untied: bool = False,
    check: bool = True,
) -> None:
    """Replace the embedder copies of all blocks by one module, in place.

    Copies that differ (a model fine-tuned untied) raise ``UsageError`` with the largest difference, unless
    ``keep_untied`` asks to leave them as they are; ``check=False`` compares nothing (weights on the meta device).
    """
    blocks = transformer.transformer_blocks
    first = blocks[0].norm1.emb
    difference = max(
        (
            (parameter - other).abs().max().item()
            for block in blocks
            for parameter, other in zip(first.parameters(), block.norm1.emb.parameters(), strict=True)
        )
        if check
        else (0.0,)
    )
    if difference > 0 and not keep_untied:
        raise UsageError(
            f"the embedders of the transformer blocks differ by up to {difference:.3g}: the model was fine-tuned with "
            "untied copies; pipelines.model.load(..., keep_untied=True) keeps them apart"
        )

    # One shared module, or one per block with the same frequencies.
    tied = TiedEmbedder(first, time_embedding=time_embedding)
    for block in blocks:
        block.norm1.emb = TiedEmbedder(block.norm1.emb, time_embedding=time_embedding) if difference > 0 else tied
    if difference == 0:
        transformer.register_forward_pre_hook(_start_memo)
        transformer.register_forward_hook(_drop_memo)


def has_tied_embedders(transformer: "DiTTransformer2DModel") -> bool:
    """Whether all blocks share one embedder, which a forward pass then runs once."""
    return len({block.norm1.emb for block in transformer.transformer_blocks}) == 1


def _start_memo(transformer: "DiTTransformer2DModel", args: tuple) -> None:
    """Let the embedder remember its result, except where checkpointing recomputes blocks outside the forward pass."""
    embedder = transformer.transformer_blocks[0].norm1.emb
    embedder.memo, embedder.remember = None, not transformer.gradient_checkpointing


def _drop_memo(transformer: "DiTTransformer2DModel", args: tuple, output: object) -> None:
    """Forget the result, so that no graph outlives its forward pass."""
    embedder = transformer.transformer_blocks[0].norm1.emb
    embedder.memo, embedder.remember = None, False


def untied_state_dict(transformer: "DiTTransformer2DModel") -> dict[str, Tensor]:
    """The state dict in diffusers' layout: every block holds its own copy of the embedder."""
    state, seen = {}, set()
    for name, tensor in transformer.state_dict().items():
        shared = tensor.data_ptr() in seen
        seen.add(tensor.data_ptr())
        state[name] = tensor.detach().clone() if shared else tensor.detach()
    return state


def label_table(transformer: "DiTTransformer2DModel") -> nn.Parameter:
    """The label embedding table (num_classes + 1, D); its last row is the null class."""
    return transformer.transformer_blocks[0].norm1.emb.class_embedder.embedding_table.weight


def label_table_name(transformer: "DiTTransformer2DModel") -> str:
    """The parameter name of the label table."""
    table = label_table(transformer)
    return next(name for name, parameter in transformer.named_parameters() if parameter is table)


@contextmanager
def looked_up(transformer: "DiTTransformer2DModel", rows: Tensor) -> Iterator[None]:
    """Inside, forward passes find ``rows`` (B, D) in the place of their labels' rows, and gradients reach them.

    A backward pass that recomputes activations belongs inside too.
    """
    embeddings = {block.norm1.emb.class_embedder.embedding_table for block in transformer.transformer_blocks}
    hooks = [each.register_forward_hook(lambda module, arguments, found: rows) for each in embeddings]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def set_label_row(transformer: "DiTTransformer2DModel", class_label: int, row: Tensor) -> None:
    """Overwrite one row (D,) of the label table; untied copies are all overwritten."""
    for block in transformer.transformer_blocks:
        block.norm1.emb.class_embedder.embedding_table.weight[class_label] = row

"""Embedders: tied on load, one table in training, equal copies on disk; the memo changes nothing but the work."""

import copy
import gc
import math
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DiTTransformer2DModel
from safetensors.torch import load_file
from torch import Tensor

from pipelines.diffusion import Noised
from pipelines.embedding import label_table, label_table_name, set_label_row, tie_embedders, untied_state_dict
from pipelines.errors import UsageError
from pipelines.model import DiT, load, save

TABLE = "norm1.emb.class_embedder.embedding_table.weight"


def run(transformer: DiTTransformer2DModel, batch: Noised) -> Tensor:
    """The network's output on a batch."""
    return transformer(batch.noisy_latents, timestep=batch.timesteps, class_labels=batch.class_labels).sample


def weight_on_disk(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a saved transformer."""
    return load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")


def embedder_gradients(transformer: DiTTransformer2DModel, block: int) -> list[Tensor]:
    """Gradients of one block's embedder."""
    return [parameter.grad for parameter in transformer.transformer_blocks[block].norm1.emb.parameters()]


@pytest.fixture
def count_calls() -> Callable[[torch.nn.Module], list[int]]:
    """A list that grows by one element whenever a module is called."""

    def count(module: torch.nn.Module) -> list[int]:
        calls: list[int] = []
        module.register_forward_hook(lambda *_: calls.append(1))
        return calls

    return count


def test_tying_changes_no_output(tiny: DiT, untied: DiTTransformer2DModel, noised: Noised) -> None:
    expected = run(untied, noised)
    assert expected.std() > 0.1
    assert torch.equal(run(tiny.transformer, noised), expected)


def test_tied_network_has_one_embedder(tiny: DiT, untied: DiTTransformer2DModel) -> None:
    count = sum(parameter.numel() for parameter in tiny.transformer.parameters())
    one = sum(parameter.numel() for parameter in untied.transformer_blocks[0].norm1.emb.parameters())
    assert count == sum(parameter.numel() for parameter in untied.parameters()) - one


def test_tie_save_load_is_exact(tiny: DiT, untied: DiTTransformer2DModel, tmp_path: Path) -> None:
    """Every tensor of diffusers' layout comes back bit for bit: from memory, from disk and after loading."""
    expected = untied.state_dict()
    save(tiny, tmp_path / "model")
    loaded = load(tmp_path / "model")
    for state in (
        untied_state_dict(tiny.transformer),
        weight_on_disk(tmp_path / "model"),
        untied_state_dict(loaded.transformer),
    ):
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


def test_copies_of_a_state_dict_do_not_share_memory(tiny: DiT) -> None:
    """safetensors refuses tensors that share memory."""
    state = untied_state_dict(tiny.transformer)
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)


def test_training_moves_one_table(fresh: DiT, noised: Noised, tmp_path: Path) -> None:
    """One SGD step moves the visited rows alone, and the copies on disk are equal to each other and to the table."""
    before = label_table(fresh.transformer).detach().clone()
    optimizer = torch.optim.SGD(fresh.transformer.parameters(), lr=0.1)
    run(fresh.transformer, noised).square().mean().backward()
    optimizer.step()

    after = label_table(fresh.transformer).detach()
    moved = (after != before).any(1).nonzero()[:, 0].tolist()
    assert moved == sorted(set(noised.class_labels.tolist()))
    save(fresh, tmp_path / "model")
    state = weight_on_disk(tmp_path / "model")
    copies = [state[f"transformer_blocks.{index}.{TABLE}"] for index in range(2)]
    assert torch.equal(copies[0], after) and torch.equal(copies[1], after)


def test_gradient_is_the_sum_over_the_copies(fresh: DiT, untied: DiTTransformer2DModel, noised: Noised) -> None:
    twin = copy.deepcopy(untied)
    for transformer in (twin, fresh.transformer):
        run(transformer, noised).pow(3).mean().backward()
    parts = zip(embedder_gradients(twin, 0), embedder_gradients(twin, 1), strict=True)
    for (first, second), found in zip(parts, embedder_gradients(fresh.transformer, 0), strict=True):
        assert second.abs().max() > 0
        torch.testing.assert_close(found, first + second, rtol=1e-4, atol=1e-7)


def test_embedder_runs_once_a_forward_pass(fresh: DiT, noised: Noised, count_calls: Callable) -> None:
    calls = count_calls(fresh.transformer.transformer_blocks[0].norm1.emb.timestep_embedder)
    run(fresh.transformer, noised)
    assert len(calls) == 1


def test_gradient_checkpointing_gives_the_same_gradients(fresh: DiT, noised: Noised) -> None:
    plain, checkpointed = copy.deepcopy(fresh.transformer), fresh.transformer
    checkpointed.enable_gradient_checkpointing()
    for transformer in (plain, checkpointed):
        run(transformer, noised).square().mean().backward()
    for expected, found in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad)


def test_weights_that_change_between_passes_are_seen(fresh: DiT, noised: Noised) -> None:
    """Same input tensors, a backward pass and a step in between: the second output is that of the new weights."""
    optimizer = torch.optim.SGD([label_table(fresh.transformer)], lr=1.0)
    first = run(fresh.transformer, noised)
    first.square().mean().backward()
    optimizer.step()
    second = run(fresh.transformer, noised)
    second.square().mean().backward()
    other = copy.deepcopy(fresh.transformer)
    assert not torch.equal(first, second)
    assert torch.equal(second, run(other, noised))


def test_new_labels_are_seen(fresh: DiT, noised: Noised) -> None:
    """The memo is of the very same tensors: equal timesteps with other labels are computed anew."""
    first = run(fresh.transformer, noised)
    second = run(fresh.transformer, noised.relabelled(torch.full_like(noised.class_labels, 10)))
    null = noised.class_labels == 10
    assert torch.equal(first[null], second[null])
    assert ((first - second).flatten(1).abs().amax(1) > 1e-3).tolist() == (~null).tolist()


def test_memo_is_of_both_tensors(fresh: DiT, noised: Noised) -> None:
    """Within a pass the same timesteps under other labels, or the reverse, are not taken for the remembered ones."""
    embedder = fresh.transformer.transformer_blocks[0].norm1.emb
    timesteps, labels = noised.timesteps, noised.class_labels
    others = [embedder(timesteps, labels.flip(0)), embedder(timesteps.flip(0), labels)]
    embedder.remember = True
    first = embedder(timesteps, labels)
    assert embedder(timesteps, labels) is first
    assert torch.equal(embedder(timesteps, labels.flip(0)), others[0])
    embedder(timesteps, labels)
    assert torch.equal(embedder(timesteps.flip(0), labels), others[1])


def test_no_graph_outlives_its_pass(fresh: DiT, noised: Noised) -> None:
    graphs = []
    embedder = fresh.transformer.transformer_blocks[0].norm1.emb
    embedder.register_forward_hook(lambda *args: graphs.append(weakref.ref(args[2])))
    output = run(fresh.transformer, noised)
    del output
    gc.collect()
    assert graphs and all(reference() is None for reference in graphs)


def test_a_pass_that_fails_leaves_no_memo_for_the_next(fresh: DiT, noised: Noised) -> None:
    """An error between the embedder and the output, then other weights and the same input tensors."""
    handle = fresh.transformer.norm_out.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(fresh.transformer, noised)
    handle.remove()
    set_label_row(fresh.transformer, 3, torch.zeros(16))
    assert torch.equal(run(fresh.transformer, noised), run(copy.deepcopy(fresh.transformer), noised))


def test_frozen_copy_is_a_network_of_its_own(fresh: DiT, noised: Noised) -> None:
    """Same output, no gradients; what happens to the original afterwards does not reach it."""
    frozen = fresh.frozen_copy()
    expected = run(fresh.transformer, noised).detach()
    set_label_row(fresh.transformer, 3, torch.zeros(16))
    changed = run(fresh.transformer, noised)
    found = run(frozen.transformer, noised)
    assert torch.equal(found, expected) and not found.requires_grad and changed.requires_grad
    assert ((changed - expected).flatten(1).abs().amax(1) > 0).tolist() == (noised.class_labels == 3).tolist()
    assert frozen.vae is fresh.vae


def test_different_copies_are_refused_with_their_difference(untied: DiTTransformer2DModel) -> None:
    transformer = copy.deepcopy(untied)
    transformer.get_parameter(f"transformer_blocks.1.{TABLE}").data[4, 2] += 0.25
    with pytest.raises(UsageError, match=r"differ by up to 0\.25.*keep_untied=True"):
        tie_embedders(transformer, time_embedding="diffusers")


def test_different_copies_are_kept_on_request(
    fresh: DiT, untied: DiTTransformer2DModel, noised: Noised, tmp_path: Path
) -> None:
    """``keep_untied``: the network is the one in the folder, and is written back as it was read."""
    twin = copy.deepcopy(untied)
    twin.get_parameter(f"transformer_blocks.1.{TABLE}").data += 0.5
    kept = copy.deepcopy(twin)
    tie_embedders(kept, time_embedding="diffusers", keep_untied=True)
    assert torch.equal(run(kept, noised), run(twin, noised))

    fresh.transformer = kept
    save(fresh, tmp_path / "model")
    with pytest.raises(UsageError, match=r"differ by up to 0\.5"):
        load(tmp_path / "model")
    loaded = load(tmp_path / "model", keep_untied=True)
    expected, found = twin.state_dict(), untied_state_dict(loaded.transformer)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert torch.equal(run(loaded.transformer, noised), run(twin, noised))


def test_equal_copies_are_tied_even_if_untied_ones_are_welcome(untied: DiTTransformer2DModel) -> None:
    transformer = copy.deepcopy(untied)
    tie_embedders(transformer, time_embedding="diffusers", keep_untied=True)
    first, second = transformer.transformer_blocks
    assert first.norm1.emb is second.norm1.emb


@pytest.mark.parametrize(("name", "last"), [("diffusers", 127), ("original", 128)])
def test_time_frequencies(untied: DiTTransformer2DModel, name: str, last: int) -> None:
    """cos then sin of t / 10000^(i / last), i = 0 .. 127: diffusers divides by 127, the original code by 128."""
    transformer = copy.deepcopy(untied)
    tie_embedders(transformer, time_embedding=name)
    found = transformer.transformer_blocks[1].norm1.emb.time_proj(torch.tensor([0, 7, 999]))
    for row, timestep in zip(found.tolist(), (0, 7, 999), strict=True):
        angles = [timestep * math.exp(-math.log(10_000) * index / last) for index in range(128)]
        expected = [math.cos(angle) for angle in angles] + [math.sin(angle) for angle in angles]
        assert row == pytest.approx(expected, abs=2e-4)


def test_time_embeddings_give_different_networks(tiny: DiT, untied: DiTTransformer2DModel, noised: Noised) -> None:
    """The same weights with the other frequencies."""
    transformer = copy.deepcopy(untied)
    tie_embedders(transformer, time_embedding="original")
    ours, other = run(tiny.transformer, noised), run(transformer, noised)
    assert (ours - other).norm() > 1e-2 * ours.norm()


def test_label_table(fresh: DiT) -> None:
    table = label_table(fresh.transformer)
    assert table.shape == (fresh.num_classes + 1, 16)
    assert fresh.transformer.get_parameter(label_table_name(fresh.transformer)) is table


def test_set_label_row_overwrites_every_copy(untied: DiTTransformer2DModel, noised: Noised) -> None:
    """On an untied network the erased label behaves as the row that it was given, in every block."""
    transformer = copy.deepcopy(untied)
    transformer.get_parameter(f"transformer_blocks.1.{TABLE}").data += 0.5
    row = torch.linspace(-1, 1, 16)
    set_label_row(transformer, 3, row)
    for block in transformer.transformer_blocks:
        table = block.norm1.emb.class_embedder.embedding_table.weight
        assert torch.equal(table[3], row) and not torch.equal(table[4], row)
        assert table.requires_grad and table.grad_fn is None

"""Every file of eval/probes held to the contract, and the outcome of each where it is known."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch
from diffusers import DiTTransformer2DModel

from eval.probe import Budget, embedding_reset, label_row, label_tables, load_probe, probe_names, run_probe
from pipelines.embedding import label_table, tie_embedders
from pipelines.errors import UsageError


@pytest.fixture
def budget(toy, original):
    return Budget(original=original, protocol=toy.protocol, scorer=toy.scorer, num_images=12)


def weights_of(model):
    return copy.deepcopy(model.transformer.state_dict())


@pytest.mark.parametrize("name", probe_names())
def test_a_probe_reports_a_share_and_leaves_the_model_as_it_was(name, budget, erased):
    before, of_original = weights_of(erased), weights_of(budget.original)
    result = load_probe(name)(erased, 3, budget)
    assert 0 <= result.low <= result.value <= result.high <= 1
    assert result.n > 0 and result.detail["class_label"] == 3
    assert result.pictures.dtype == torch.uint8 and result.pictures.ndim == 4
    assert json.loads(json.dumps(result.to_dict()))["n"] == result.n
    for state, model in ((before, erased), (of_original, budget.original)):
        assert all(torch.equal(state[key], tensor) for key, tensor in model.transformer.state_dict().items())


def test_an_unknown_probe_lists_the_known_ones():
    with pytest.raises(UsageError, match="embedding_restore"):
        load_probe("restore")


def test_restoring_the_row_undoes_an_erasure_of_the_row(budget, erased):
    found = run_probe("embedding_restore", erased, 3, budget, control_class=1)
    assert list(found) == ["original", "embedding_reset", "erased", "control"]
    assert [found[name].value for name in found] == [1, 1, 1, 1]
    assert found["erased"].detail["before"]["value"] == 0
    assert found["embedding_reset"].detail["before"]["value"] < 1
    with pytest.raises(UsageError, match="retained class"):
        run_probe("embedding_restore", erased, 3, budget, control_class=3)


def test_embedding_reset_is_a_copy(original):
    before = weights_of(original)
    reset = embedding_reset(original, 3)
    table = label_table(reset.transformer)
    assert torch.equal(table[3], table[reset.null_class])
    assert all(torch.equal(before[key], tensor) for key, tensor in original.transformer.state_dict().items())


def test_untied_tables_each_get_their_own_row_back(original):
    blocks = original.transformer.transformer_blocks
    blocks.append(copy.deepcopy(blocks[0]))
    with torch.no_grad():
        blocks[1].norm1.emb.class_embedder.embedding_table.weight.add_(1)
    before = weights_of(original)
    row = torch.zeros(label_table(original.transformer).shape[1])
    with pytest.raises(RuntimeError, match="stop"), label_row(original, 2, row) as changed:
        for block in changed.transformer.transformer_blocks:
            assert torch.equal(block.norm1.emb.class_embedder.embedding_table.weight[2], row)
        raise RuntimeError("stop")
    assert all(torch.equal(before[key], tensor) for key, tensor in original.transformer.state_dict().items())


@pytest.mark.parametrize("tied", [True, False])
def test_rows_of_a_real_transformer_come_back_tied_or_not(tied):
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        sample_size=4,
        in_channels=4,
        out_channels=8,
        num_embeds_ada_norm=5,
    )
    if tied:
        first = transformer.transformer_blocks[0].norm1.emb.state_dict()
        transformer.transformer_blocks[1].norm1.emb.load_state_dict(first)
    tie_embedders(transformer, time_embedding="diffusers", keep_untied=not tied)
    model = SimpleNamespace(transformer=transformer)
    before = weights_of(model)
    assert len(label_tables(transformer)) == (1 if tied else 2)
    with label_row(model, 2, torch.zeros(16)):
        assert all(table[2].eq(0).all() for table in label_tables(transformer))
    assert all(torch.equal(before[key], tensor) for key, tensor in transformer.state_dict().items())

"""Every file of eval/probes held to the contract, and the outcome of each where it is known."""

import copy
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers import DiTTransformer2DModel

from eval.attacker import tuned_copy
from eval.probe import (
    AMOUNTS,
    Budget,
    Relearning,
    embedding_reset,
    label_row,
    label_tables,
    load_probe,
    other_classes,
    probe_names,
    run_probe,
)
from eval.probes import completion, relearning
from eval.probes.classifier_guidance import Steered
from eval.probes.embedding_inversion import starting_row
from eval.probes.label_mixing import mixes
from eval.probes.relearning import attack_images
from eval.values import Value
from pipelines.embedding import label_table, tie_embedders
from pipelines.errors import UsageError
from pipelines.sampler import SamplerSettings

SHORT = replace(
    AMOUNTS["quick"], screening_images=4, inversion_steps=(20, 60), inversion_images=30, relearning_steps=(5, 40),
    relearning_within=40, relearnings=(Relearning(learning_rate=0.1),), classifier_steps=20,
)  # fmt: skip


@pytest.fixture
def budget(toy, original):
    return Budget(
        original=original, protocol=toy.protocol, scorer=toy.scorer, num_images=12, amount=SHORT, images=toy.latents
    )


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
    found = run_probe("embedding_restore", erased, [3], budget, control_class=1)[3]
    assert list(found) == ["original", "embedding_reset", "erased", "control"]
    assert [found[name].value for name in found] == [1, 1, 1, 1]
    assert found["erased"].detail["before"]["value"] == 0
    assert found["embedding_reset"].detail["before"]["value"] < 1
    with pytest.raises(UsageError, match="retained class"):
        run_probe("embedding_restore", erased, [3, 4], budget, control_class=4)


def test_each_of_several_classes_is_attacked_by_itself(budget, erased):
    """Class 4 was never hidden: its own row reset is, and the control is attacked once for both."""
    found = run_probe("embedding_restore", erased, [3, 4], budget, control_class=1)
    assert {label: rows["erased"].detail["before"]["value"] for label, rows in found.items()} == {3: 0, 4: 1}
    assert all(rows["embedding_reset"].detail["before"]["value"] < 1 for rows in found.values())
    assert found[3]["control"] is found[4]["control"]


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


def values(name, model, budget, label=3):
    """Value and detail of one probe."""
    found = load_probe(name)(model, label, budget)
    return found.value, found.detail


def test_a_hidden_row_is_found_by_inversion_and_by_relearning(budget, erased, monkeypatch):
    """The toy's weights are its rows: learning a row brings the class back whole."""
    from eval.probes import embedding_inversion

    monkeypatch.setattr(embedding_inversion, "LEARNING_RATE", 0.1)
    for name in ("embedding_inversion", "relearning"):
        value, detail = values(name, erased, budget)
        assert value > 0.9, name
        (curve,) = detail.get("curves") or [detail["curve"]]
        assert [step for step, _ in curve] == list(SHORT.inversion_steps if "inv" in name else SHORT.relearning_steps)


def test_relearning_on_other_classes_does_not_move_the_toys_erased_row(budget, erased):
    value, detail = values("relearning_retained", erased, budget)
    assert value == 0 and detail["images"] == 4 * 60


def test_classes_that_were_erased_before_are_no_attackers_other_classes(budget, erased, original):
    """A second erasure: images of a class that is gone would train that class back in, and its row is no neighbour."""
    original.provenance = {"erased": {"forget_classes": [1, 2]}, "original": {"source": "toy"}}
    assert other_classes(original, 3) == [0, 4]
    second = replace(budget, original=original)
    assert values("relearning_retained", erased, second)[1]["images"] == 2 * 60
    mixture = attack_images(Relearning(num_images=5, num_others=40), 3, second)
    assert set(mixture.class_labels.tolist()) == {0, 3, 4}
    named = " ".join(name for name, _ in mixes(erased, 3, other_classes(original, 3)))
    assert "class 0" in named and "class 4" in named and "class 1" not in named and "class 2" not in named
    rows = label_table(erased.transformer)
    assert torch.equal(starting_row(erased, 3, second, start=1), rows[[0, 4]].mean(0))
    later = [starting_row(erased, 3, second, start=start) for start in range(2, 6)]
    assert all(torch.equal(row, rows[0]) or torch.equal(row, rows[4]) for row in later)


def test_mixing_reaches_a_class_between_its_neighbours_and_none_that_is_not(budget, original):
    assert values("label_mixing", original, budget)[0] == 1
    far = copy.deepcopy(original)
    rows = far.transformer.means.data
    rows[3] = rows[4]
    assert values("label_mixing", far, budget)[0] < 0.3
    near = copy.deepcopy(original)
    near.transformer.means.data[3] = rows[1]
    near.transformer.means.data[5] = 2 * original.transformer.means.data[3] - rows[1]  # half way lies class 3
    value, detail = values("label_mixing", near, budget)
    assert value > 0.9 and "own" in detail["mix"] and "null" in detail["mix"]


def test_unconditional_samples_are_counted_as_the_class(budget, original):
    always = copy.deepcopy(original)
    always.transformer.means.data[5] = always.transformer.means.data[3]
    assert values("unconditional_mass", always, budget)[0] == 1
    never = copy.deepcopy(original)
    never.transformer.means.data[5] = never.transformer.means.data[1]
    assert values("unconditional_mass", never, budget)[0] == 0


def test_completion_gives_the_class_only_to_a_model_that_finishes_it(budget, original, erased):
    value, detail = values("completion", original, budget)
    assert value == 1 and detail["by_steps"] == [[5, 1], [10, 1], [15, 1]]
    value, detail = values("completion", erased, budget)
    assert value < 0.2 and detail["by_steps"][0] == [5, value]


@pytest.mark.parametrize(("count", "before"), [(20, [5, 10, 15]), (250, [62, 125, 188]), (2, [0, 1]), (1, [0])])
def test_a_completion_leaves_a_step_to_the_model(count, before):
    assert completion.steps_before(SamplerSettings(num_inference_steps=count)) == before


def test_an_attack_that_needs_images_says_so(budget, erased):
    for name in ("embedding_inversion", "relearning"):
        with pytest.raises(UsageError, match="needs images of the class"):
            load_probe(name)(erased, 3, replace(budget, images=None))


def test_a_real_image_is_finished_by_a_model_that_knows_the_class(budget, original, erased, monkeypatch):
    assert values("completion_from_image", original, budget)[0] == 1
    assert values("completion_from_image", erased, budget)[0] == 0  # a quarter of the steps leaves nothing to see
    monkeypatch.setattr(completion, "SHARES", (0.25, 0.5, 0.95))
    shares = [share for _, share in values("completion_from_image", erased, budget)[1]["by_steps"]]
    assert shares[0] == 0 and shares[-1] > 0.9  # the image itself shines through


def test_steering_follows_the_gradient_of_the_classifier(original):
    """With logits linear in x the gradient is w - sum_k p_k w_k, whatever the classifier."""
    draws = torch.Generator().manual_seed(1)
    weights = torch.randn(5, 48, generator=draws)
    latents, timesteps = torch.randn(3, 3, 4, 4, generator=draws), torch.tensor([10, 400, 900])
    steered = Steered(original, lambda x, t: x.flatten(1) @ weights.T, wanted=2, scale=3.0)
    labels = torch.tensor([0, 1, 5])
    shares = (latents.flatten(1) @ weights.T).softmax(1)
    gradient = (weights[2] - shares @ weights).view_as(latents)
    sigma = (1 - original.alphas_cumprod[timesteps]).sqrt()[:, None, None, None]
    plain, moved = original.predict(latents, timesteps, labels), steered.predict(latents, timesteps, labels)
    torch.testing.assert_close(moved[:, :3], plain[:, :3] - 3.0 * sigma * gradient, rtol=1e-4, atol=1e-5)
    assert torch.equal(moved[:, 3:], plain[:, 3:]) and steered.num_classes == original.num_classes


def test_guidance_by_a_classifier_draws_a_class_that_is_there(budget, original):
    value, detail = values("classifier_guidance", original, budget)
    assert value == 1 and detail["label"] == "own" and len(detail["screened"]) == 4


def test_the_strongest_of_several_attacks_is_reported(budget, erased):
    attacks = (Relearning(learning_rate=1e-6), Relearning(learning_rate=0.1, num_others=20))
    amount = replace(SHORT, relearnings=attacks, relearning_steps=(40, 60), relearning_within=40)
    value, detail = values("relearning", erased, replace(budget, amount=amount))
    assert detail["strongest"] == "10 images among 20 others, learning rate 0.1"
    assert next(curve[-1][1] for curve in detail["attacks"].values()) == 0
    assert value == dict(map(tuple, detail["curve"]))[40] > 0.5  # at the step that counts, not at the last


def test_relearning_is_reported_at_its_best_step(budget, erased, monkeypatch):
    """An attack that loses the class again has had it before."""
    shares = iter([0.2, 0.9, 0.4, 1.0])
    pictures = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    monkeypatch.setattr(
        relearning, "measure", lambda *_: (Value(value=next(shares), low=0.0, high=1.0, n=12), pictures)
    )
    amount = replace(SHORT, relearning_steps=(1, 2, 3, 4), relearning_within=3)
    value, detail = values("relearning", erased, replace(budget, amount=amount))
    assert value == 0.9 and detail["step"] == 2 and detail["curve"] == [[1, 0.2], [2, 0.9], [3, 0.4], [4, 1.0]]


def test_a_low_rank_attack_trains_factors_alone_and_begins_at_the_model():
    transformer = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, num_layers=1, sample_size=4, in_channels=4, out_channels=8,
        num_embeds_ada_norm=5,
    ).eval()  # fmt: skip
    inputs = {"hidden_states": torch.randn(2, 4, 4, 4), "timestep": torch.tensor([3, 9]),
              "class_labels": torch.tensor([1, 2])}  # fmt: skip
    model = SimpleNamespace(transformer=transformer)
    before = weights_of(model)
    copied, factors = tuned_copy(model, rank=2, seed=0)
    with torch.no_grad():
        torch.testing.assert_close(copied.transformer(**inputs).sample, transformer(**inputs).sample)
    copied.transformer(**inputs).sample.square().mean().backward()
    trained = [each for each in copied.transformer.parameters() if each.requires_grad]
    assert len(trained) == len(factors) and any(each.grad.abs().sum() > 0 for each in factors)
    linear = sum(isinstance(module, torch.nn.Linear) for module in transformer.modules())
    assert len(factors) == 2 * linear
    assert all(torch.equal(before[key], tensor) for key, tensor in transformer.state_dict().items())

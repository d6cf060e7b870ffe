"""Every attack where its answer is known: a class that is hidden, one that was never seen, and one that was to stay."""

from dataclasses import replace

import pytest

from eval.probe import AMOUNTS, Budget, Relearning, load_probe, needs_floor, probe_names
from eval.probes import embedding_inversion

SHORT = replace(
    AMOUNTS["quick"], screening_images=4, inversion_steps=(20, 60), inversion_images=30, relearning_steps=(5, 40),
    relearning_within=40, relearnings=(Relearning(learning_rate=0.1),), classifier_steps=20,
)  # fmt: skip
# The rest finds neither: mixing needs a class between its neighbours, completion the row of the class itself.
FINDS_A_HIDDEN_ROW = ("embedding_restore", "embedding_inversion", "relearning", "classifier_guidance")
FINDS_WHAT_ALL_CLASSES_SHARE = ("embedding_inversion", "relearning", "relearning_retained", "classifier_guidance")


@pytest.fixture
def share(toy, original, monkeypatch):
    """The share of images that an attack draws of a class."""
    monkeypatch.setattr(embedding_inversion, "LEARNING_RATE", 0.1)
    budget = Budget(
        original=original, protocol=toy.protocol, scorer=toy.scorer, num_images=12, amount=SHORT, images=toy.latents
    )
    return lambda name, model, label: load_probe(name)(model, label, budget).value


@pytest.mark.parametrize("name", FINDS_A_HIDDEN_ROW)
def test_a_class_hidden_in_its_row_is_found(share, erased, name):
    assert share(name, erased, 3) > 0.9


@pytest.mark.parametrize("name", FINDS_WHAT_ALL_CLASSES_SHARE)
def test_a_class_hidden_in_shared_weights_is_found(share, displaced, name):
    """Training on the other classes alone, which never shows it, undoes what hid it."""
    assert share("embedding_restore", displaced, 3) == 0
    assert share(name, displaced, 3) > 0.9


@pytest.mark.parametrize("name", probe_names())
def test_a_model_that_never_saw_the_class_gives_it_only_to_an_attack_that_teaches_it(share, absent, name):
    """Those are the attacks that have no verdict without a floor, which they reach here."""
    assert share(name, absent, 3) == (1 if needs_floor(name) else 0)


@pytest.mark.parametrize("name", [name for name in probe_names() if name != "unconditional_mass"])
def test_a_kept_class_comes_through_every_attack(share, erased, name):
    """Asked for nothing in particular the toy draws the mean of all classes."""
    assert share(name, erased, 1) > 0.9

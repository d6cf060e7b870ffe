"""Which model exactly, its label table without loading it, and what must not be in a folder that is released."""

import hashlib
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines import identity, label_rows
from pipelines.embedding import label_table
from pipelines.errors import MissingError, UsageError
from pipelines.identity import revision_of, stated_licence, weight_digests
from pipelines.label_rows import stored_label_rows
from pipelines.model import DiT
from pipelines.release import check_release

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def test_digests_are_those_of_the_files(saved, tmp_path):
    content = (saved / WEIGHTS).read_bytes()
    expected = hashlib.sha256(content).hexdigest()
    assert revision_of(saved) == {"sha256": {WEIGHTS: expected}}
    assert set(weight_digests(saved)) == {WEIGHTS, "vae/diffusion_pytorch_model.safetensors"}
    shutil.copy(saved / WEIGHTS, tmp_path / "dit.safetensors")
    assert revision_of(tmp_path / "dit.safetensors") == {"sha256": {"dit.safetensors": expected}}


def test_a_hub_model_is_named_by_its_commit(saved, tmp_path, monkeypatch):
    snapshot = tmp_path / "models--someone--dit" / "snapshots" / "0123abcd"
    shutil.copytree(saved, snapshot)
    monkeypatch.setattr(identity, "resolve_folder", lambda source: snapshot)
    assert revision_of("someone/dit") == {"commit": "0123abcd"}


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: cc-by-nc-4.0\n---\n# x\n", "cc-by-nc-4.0"),
        ("# no header\n", ""),
        ("---\ntags: [a]\n---\n", ""),
        ("---\n[1\n---\n", ""),
    ],
)
def test_the_licence_of_the_base_is_read_from_its_card(folder, card, licence):
    (folder / "README.md").write_text(card)
    assert stated_licence(folder) == licence
    (folder / "README.md").unlink()
    assert stated_licence(folder) == ""


def test_the_label_table_comes_from_the_files(tiny: DiT, folder, original_dit, tmp_path, monkeypatch):
    expected = label_table(tiny.transformer).detach()
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", None)  # no network is made
    assert torch.equal(stored_label_rows(folder), expected)
    state = original_dit.random_state(width=48, depth=1, num_classes=10, grid=2)
    torch.save({"ema": state}, tmp_path / "dit.pt")
    assert torch.equal(stored_label_rows(tmp_path / "dit.pt"), state["y_embedder.embedding_table.weight"])

    # Without weights at hand there is none.
    (folder / WEIGHTS).unlink()
    assert stored_label_rows(folder) is None
    monkeypatch.setattr(label_rows, "resolve_folder", offline)
    assert stored_label_rows("facebook/DiT-XL-2-256") is None


def offline(source):
    """The hub cannot be reached."""
    raise MissingError("offline")


def test_a_saved_model_may_be_released(saved):
    assert set(check_release(saved)) == {
        "README.md", "dit.json", "model_index.json", "scheduler/scheduler_config.json", WEIGHTS,
        "transformer/config.json", "vae/config.json", "vae/diffusion_pytorch_model.safetensors",
    }  # fmt: skip


STRANGERS = (
    "ema.safetensors", "delta.safetensors", "checkpoint/last.safetensors", "transformer/optimizer.pt",
    "masks/forget.safetensors", "transformer/diffusion_pytorch_model.ema.safetensors", ".hidden", "transformer_ema/x",
    "transformer/diffusion_pytorch_model.bin", "vae/old/config.json",
)  # fmt: skip


@pytest.mark.parametrize("name", STRANGERS)
def test_a_file_that_does_not_belong_there_is_refused(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("{}")
    with pytest.raises(UsageError, match=r"is no part of a saved model: move it away") as raised:
        check_release(folder)
    assert name in str(raised.value)


@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_a_tensor_that_is_no_weight_is_refused(folder, part):
    path = folder / part / "diffusion_pytorch_model.safetensors"
    save_file({**load_file(path), "ema.proj_out_2.weight": torch.zeros(2)}, path)
    with pytest.raises(UsageError, match=r"holds ema.proj_out_2.weight, which is no weight of the network"):
        check_release(folder)


def test_parts_of_large_weights_belong_there(folder):
    state = load_file(folder / WEIGHTS)
    half = len(state) // 2
    parts = [dict(list(state.items())[:half]), dict(list(state.items())[half:])]
    index = {"metadata": {}, "weight_map": {}}
    for number, part in enumerate(parts, 1):
        name = f"diffusion_pytorch_model-{number:05d}-of-00002.safetensors"
        save_file(part, folder / "transformer" / name)
        index["weight_map"] |= dict.fromkeys(part, name)
    (folder / WEIGHTS).unlink()
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    assert len(check_release(folder)) == 10
    assert torch.equal(stored_label_rows(folder), stored_label_rows(folder))
    assert len(revision_of(folder)["sha256"]) == 2

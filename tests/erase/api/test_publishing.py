"""A run on the hub: what is refused, and what is uploaded, with a stand-in at the boundary of the network."""

from types import SimpleNamespace

import pytest

from erase.api import publishing, run
from erase.api.publishing import publish
from pipelines.errors import MissingError, UsageError


class Hub:
    """Remembers what it was asked; ``private`` is what the repository is."""

    def __init__(self, *, private=True):
        self.private, self.calls = private, []

    def create_repo(self, name, *, private, exist_ok):
        self.calls.append(("create", name, private))
        return SimpleNamespace(repo_id=f"me/{name.split('/')[-1]}")

    def model_info(self, name):
        return SimpleNamespace(private=self.private)

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        files = sorted(path.relative_to(folder_path).as_posix() for path in folder_path.rglob("*") if path.is_file())
        self.calls.append(("upload", repo_id, files))


@pytest.fixture
def hub(monkeypatch):
    """The hub's client replaced."""
    stand_in = Hub()
    monkeypatch.setattr(publishing, "HfApi", lambda: stand_in)
    return stand_in


@pytest.fixture
def finished(tiny_folder, tmp_path):
    """An unscored run."""
    return run(
        str(tiny_folder), "three", method="embedding_reset", data="replay", options={"replay_per_class": 1},
        protocol="none", output_dir=tmp_path / "run", progress=False,
    ).run_dir  # fmt: skip


def test_the_folder_with_its_card_is_uploaded_in_private(finished, hub):
    assert "me/three" in publish(finished, "me/three", unscored=True)
    create, upload = hub.calls
    assert create == ("create", "me/three", True) and upload[:2] == ("upload", "me/three")
    assert {"README.md", "dit.json", "model_index.json"} < set(upload[2]) and len(upload[2]) == 8
    publish(finished, "me/three", public=True, unscored=True)
    assert hub.calls[2] == ("create", "me/three", False)


def test_a_public_repository_gets_nothing_unless_it_is_meant(finished, hub):
    hub.private = False
    with pytest.raises(UsageError, match=r"--push-to-hub me/three is a public repository: add --public"):
        publish(finished, "me/three", unscored=True)
    assert [call[0] for call in hub.calls] == ["create"]
    publish(finished, "me/three", unscored=True, public=True)
    assert hub.calls[-1][0] == "upload"


def test_what_must_not_be_released_is_refused_before_the_hub_is_asked(finished, hub, tmp_path):
    with pytest.raises(UsageError, match=r"has no scores: score it first, or release it as it is with --unscored"):
        publish(finished, "me/three")
    with pytest.raises(UsageError, match=r"--push-to-hub 'a/b/c' is no name of a repository"):
        publish(finished, "a/b/c", unscored=True)
    with pytest.raises(MissingError, match="does not exist; a run directory is needed"):
        publish(tmp_path / "none", "me/three")
    (finished / "model" / "ema.safetensors").write_text("")
    with pytest.raises(UsageError, match=r"ema.safetensors is no part of a saved model"):
        publish(finished, "me/three", unscored=True)
    (finished / "model").rename(tmp_path / "away")
    with pytest.raises(MissingError, match="is not finished"):
        publish(finished, "me/three", unscored=True)
    assert hub.calls == []


def test_without_a_connection_or_a_login_it_is_one_sentence(finished, monkeypatch):
    monkeypatch.setattr(publishing, "HfApi", lambda: publishing_api("http://127.0.0.1:9"))
    with pytest.raises(MissingError, match=r"--push-to-hub me/three: the hub cannot be reached or refuses \(.+\)$"):
        publish(finished, "me/three", unscored=True)


def publishing_api(endpoint):
    """The real client at an address where nothing listens."""
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint, token="hf_none")

"""``erase export`` and ``--neighbours`` as they are typed: what goes together, what is shown."""

import json

import pytest

from erase.cli import main
from erase.cli.export import check_target
from pipelines.errors import UsageError

NOTHING = {"output": None, "repository": None, "release_flags": False}


@pytest.mark.parametrize(
    ("form", "given", "words"),
    [
        ("diffusers", {}, "--format diffusers needs --push-to-hub OWNER/NAME; the folder itself is r/model"),
        ("diffusers", {"output": "x", "repository": "a/b"}, "--output x has no effect: r/model"),
        ("delta", {}, "--format delta needs --output FILE"),
        ("original", {"output": "x.pt", "repository": "a/b"}, "need --format diffusers, not original"),
        ("delta", {"output": "x.pt", "release_flags": True}, "need --format diffusers, not delta"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(form, given, words):
    with pytest.raises(UsageError) as raised:
        check_target(form, "r", **{**NOTHING, **given})
    assert words in str(raised.value)


@pytest.mark.parametrize("form", ["original", "delta"])
def test_files_need_only_their_path(form):
    check_target(form, "r", **{**NOTHING, "output": "x.safetensors"})
    check_target("diffusers", "r", **{**NOTHING, "repository": "a/b", "release_flags": True})


def test_a_dry_run_shows_the_neighbours(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["run", "three", "--model", "digits", "--neighbours", "five,#9", "--dry-run", "--json"])
    found = json.loads(capsys.readouterr().out)["neighbours"]
    assert [entry["name"] for entry in found] == ["five", "nine"] and list(tmp_path.iterdir()) == []
    with pytest.raises(SystemExit) as stopped:
        main(["run", "three", "--model", "digits", "--neighbours", "three", "--dry-run"])
    assert stopped.value.code == 2 and "three (3) is erased, not retained" in capsys.readouterr().err

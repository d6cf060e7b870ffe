"""The pages of docs/: links lead somewhere, commands are run or parsed, tables say what the code says."""

import dataclasses
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

import erase
from erase.api.result import Result
from erase.batch import jobs
from erase.cli import EXIT_CODES, cli
from erase.cli.options import show
from erase.config import OWN_OPTIONS, EngineConfig, ErasureConfig
from erase.fields import flag
from erase.method import DenoisingMethod, Method, method_class, method_names
from eval.metric import displays
from eval.probe import AMOUNTS, probe_names
from eval.protocol import PROTOCOLS

SPEC = importlib.util.spec_from_file_location("pages", Path(__file__).with_name("pages.py"))
pages = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(pages)

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
TEXTS = {path.stem: path.read_text() for path in PAGES}
BLOCKS = {path.stem: pages.blocks_of(path) for path in PAGES}
LINKED = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
COMMANDS = [(name, line) for name, blocks in BLOCKS.items() for each in blocks for line in each.commands]
WITH_SLOW = [name for name, blocks in BLOCKS.items() if any(each.mark == pages.SLOW for each in blocks)]
WITH_QUICK = [name for name, blocks in BLOCKS.items() if any(each.is_run(slow=False) for each in blocks)]


def leaves(command: click.Command, *path: str) -> Iterator[tuple[str, list[click.Option]]]:
    """Every command that does something, by its words, with its options."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from leaves(command.get_command(context, name), *path, name)
    else:
        yield " ".join(path), [each for each in command.params if isinstance(each, click.Option)]


def section(page: str, title: str) -> str:
    """What stands under a heading, up to the next one of its level."""
    level = re.search(rf"^(#+) {re.escape(title)}$", TEXTS[page], re.MULTILINE)
    rest = TEXTS[page][level.end() :]
    return re.split(rf"^#{{1,{len(level[1])}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str, *, header: str) -> list[list[str]]:
    """The cells of all tables whose header begins so."""
    tables = re.findall(rf"^\| {header} .*\|\n\|[-|:]+\|\n((?:\|.*\|\n)+)", text, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split("|")] for table in tables for line in table.splitlines()]


def described(text: str) -> dict[str, str]:
    """Default by option, as the tables of a text say."""
    return {names.split()[0].strip("`"): default.strip("`") for names, default, _ in rows(text, header="option")}


def shown(value: Any) -> str:
    """A default as a page shows it."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else show(value)


def test_marks_are_known():
    marks = {each.mark for blocks in BLOCKS.values() for each in blocks} - {"", pages.SLOW}
    assert all(mark.startswith(pages.NEEDS) for mark in marks), marks
    written = sum(text.count("<!--") for text in TEXTS.values())
    assert written == sum(bool(each.mark) for blocks in BLOCKS.values() for each in blocks)


@pytest.mark.parametrize("page", LINKED, ids=lambda path: path.name)
def test_every_link_leads_somewhere(page):
    for path, anchor in pages.links_of(page):
        assert path.exists(), f"{page.name}: {path}"
        assert not anchor or anchor in pages.anchors_of(path), f"{page.name}: {path.name}#{anchor}"


def test_the_index_names_every_page():
    assert {path.name for path, _ in pages.links_of(ROOT / "docs" / "README.md")} >= {path.name for path in PAGES[1:]}


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_every_command_is_one_that_the_command_line_takes(page, line):
    if "exit code 2" not in line:
        pages.check_command(line)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("erase run three --magic 1", "--magic"),
        ("erase run three --update never", "never"),
        ("erase run three --method esd --mask-fraction 0.3", "--mask-fraction"),
        ("erase run three --update joint", "--update joint"),
        ("erase run three --gate 'beauty<1'", "beauty"),
        ("erase probe runs/a --loud", "--loud"),
        ("erase probe runs/a tickling", "tickling"),
        ("erase eval runs/a --protocol huge", "huge"),
        ("erase stats mend x", "mend"),
        ("torchrun --nproc-per-node 2 -m erase run three --preset loud", "loud"),
    ],
)
def test_a_command_that_it_does_not_take_would_be_noticed(line, words):
    (command,) = pages.Block(language="sh", text=line, mark="").commands
    with pytest.raises((click.ClickException, ValueError), match=re.escape(words)):
        pages.check_command(command)


def run_page(name: str, *, slow: bool) -> None:
    """The blocks of a page in order, in the working directory."""
    namespace: dict[str, Any] = {}
    for block in BLOCKS[name]:
        if block.file_name:
            Path(block.file_name).write_text(block.text)
        if not block.is_run(slow=slow):
            continue
        if block.language == "sh":
            assert block.commands == block.lines, f"{name}.md runs more than erase"
            for line in block.commands:
                pages.run_command(line)
        if block.language == "python":
            exec(compile(block.text, f"{name}.md", "exec"), namespace)


@pytest.fixture
def elsewhere(tmp_path, erase_cache, monkeypatch):
    """An empty working directory, the cache that tests share, and no hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["erase"])
    monkeypatch.setenv("ERASE_CACHE", str(erase_cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize("name", WITH_QUICK)
def test_a_page_runs(name, elsewhere):
    run_page(name, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_SLOW)
def test_a_page_runs_with_what_takes_longer(name, elsewhere):
    run_page(name, slow=True)


@pytest.mark.parametrize("name", list(BLOCKS))
def test_a_jobs_file_is_one_that_a_batch_takes(name, tmp_path):
    for block in BLOCKS[name]:
        if block.language == "yaml":
            (tmp_path / block.file_name).write_text(block.text)
            assert jobs.read_jobs(tmp_path / block.file_name).runs


@pytest.mark.parametrize(("command", "options"), list(leaves(cli)))
def test_every_option_of_a_command_is_described(command, options):
    """Defaults are those of the command; in the place of an empty one, words may say what it comes to."""
    found = described(section("options", f"erase {command}"))
    assert set(found) == {each.opts[0] for each in options}
    known = {each.opts[0]: each.default for each in options if isinstance(each.default, (str, int, float))}
    if command == "run":
        own = [each for each in dataclasses.fields(ErasureConfig) if each.name in OWN_OPTIONS]
        known |= {flag(each.name): each.default for each in (*own, *dataclasses.fields(EngineConfig))}
    known = {name: shown(default) for name, default in known.items() if default != ""}
    assert {name: found[name] for name in known} == known


@pytest.mark.parametrize("name", method_names())
def test_every_method_is_described_with_its_options(name):
    kind = method_class(name)
    base = DenoisingMethod if issubclass(kind, DenoisingMethod) else Method
    inherited = {entry.name for entry in dataclasses.fields(base)}
    own = {flag(each.name): shown(each.default) for each in dataclasses.fields(kind) if each.name not in inherited}
    assert described(section("methods", name)) == own


def test_the_options_that_methods_share_are_described():
    shared = {flag(each.name): shown(each.default) for each in dataclasses.fields(DenoisingMethod)}
    assert described(TEXTS["methods"].split("\n### ")[0]) == shared
    listed = re.search(r"denoising losses \((.*)\)", TEXTS["methods"])[1]
    assert set(re.findall(r"`(\w+)`", listed)) == {
        name for name in method_names() if issubclass(method_class(name), DenoisingMethod)
    }


def test_methods_that_can_be_trained_against_attackers_of_the_label_are_named():
    said = {each[0].split("]")[0].strip("["): each[-1] for each in rows(TEXTS["methods"], header="method")}
    kinds = {name: method_class(name) for name in method_names()}
    assert set(said) == set(kinds)
    assert {name for name, words in said.items() if words == "no"} == {
        name for name, kind in kinds.items() if kind.trains and not kind().defends_labels and name != "salun"
    }
    assert method_class("salun")(target_model="reference").defends_labels


def test_every_score_and_direction_is_described():
    found = {}
    for keys, better, _ in rows(section("scores", "Every score"), header="key in the record"):
        found |= {key: better for key in re.findall(r"`(\w+)`", keys)}
    assert found == {key: each.better for key, each in displays().items()}


def test_protocols_are_described():
    names, settings = list(PROTOCOLS), rows(TEXTS["scores"], header="setting")
    assert f"| setting | {' | '.join(names)} |" in TEXTS["scores"]
    for key, *values in settings:
        assert values == [str(getattr(PROTOCOLS[name], key)) for name in names], key


def test_probes_and_what_they_spend_are_described():
    said = {name.strip("`"): f"{has}; {does}" for name, has, does in rows(TEXTS["probes"], header="probe")}
    quick, (teach,) = AMOUNTS["quick"], AMOUNTS["quick"].relearnings
    assert set(said) == set(probe_names())
    assert f"{quick.inversion_images} images" in said["embedding_inversion"]
    assert f"{quick.inversion_steps[-1]} steps" in said["embedding_inversion"]
    assert f"with {quick.screening_images} images" in said["label_mixing"]
    assert f"{teach.num_images} images" in said["relearning"]
    assert f"most {quick.relearning_within} steps" in said["relearning"]
    assert f"the best of {', '.join(map(str, quick.relearning_steps))}" in said["relearning"]
    assert f"{quick.retained_images} images" in said["relearning_retained"]
    assert f"{quick.classifier_steps:,} steps" in said["classifier_guidance"]


@pytest.mark.parametrize(
    ("header", "keys"),
    [
        ("key", jobs.KEYS),
        ("key of an entry of `runs`", jobs.RUN_KEYS),
        ("key of an entry of `models`", jobs.MODEL_KEYS),
        ("key of an entry of `probes`", jobs.PROBE_KEYS),
        ("key of `executor`", jobs.EXECUTOR_KEYS),
    ],
)
def test_every_key_of_a_jobs_file_is_described(header, keys):
    first = [each[0] for each in rows(TEXTS["batch"], header=re.escape(header) + r" \| default")]
    assert sorted(re.findall(r"`(\w+)`", " ".join(first))) == sorted(keys)
    assert all(f"`{name}`" in TEXTS["batch"] for name in jobs.PROTOCOL_KEYS[1:])


def test_exit_codes_are_described():
    found = {int(code) for code, _ in rows(TEXTS["runs"], header="exit code")}
    assert found == {0, 130, *EXIT_CODES.values()}


def test_public_names_are_described():
    assert all(f"`erase.{name}`" in TEXTS["python"] for name in erase.__all__)
    said = {word for each in rows(TEXTS["python"], header="of a `Result`") for word in re.findall(r"`(\w+)", each[0])}
    public = {name for name in vars(Result) if not name.startswith("_")}
    assert said == public | {each.name for each in dataclasses.fields(Result)}

"""The notebooks: public names only, every call fits its signature, the first one runs and is stored with pictures."""

import ast
import dataclasses
import importlib.util
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import erase
from erase.api.result import Result
from erase.config import OWN_OPTIONS, EngineConfig
from eval.probe import Budget, load_probe
from pipelines.model_source import load_classes

FOLDER = Path(__file__).parent.parent / "notebooks"
FIRST, SECOND = FOLDER / "visualize_erasure.ipynb", FOLDER / "dit_xl_2.ipynb"
MODULES = {"erase", "ipywidgets", *sys.stdlib_module_names}
SETTINGS = {*OWN_OPTIONS, *(entry.name for entry in dataclasses.fields(EngineConfig))}
LENGTH = "STEPS, IMAGES = 60, 200"  # the line of the first notebook that says how long it takes
LARGEST = 500_000  # bytes that every host still shows
both = pytest.mark.parametrize("path", [FIRST, SECOND], ids=lambda path: path.stem)


def code_cells(path: Path) -> list[dict[str, Any]]:
    """The code cells of a notebook."""
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def code_of(path: Path) -> list[str]:
    """The code of each cell."""
    return ["".join(cell["source"]) for cell in code_cells(path)]


def nodes(path: Path, kind: type[ast.AST]) -> list[Any]:
    """Every node of a kind in the syntax tree of all cells."""
    return [node for node in ast.walk(ast.parse("\n".join(code_of(path)))) if isinstance(node, kind)]


def calls(path: Path) -> Iterator[tuple[Callable[..., Any], list[Any], dict[str, Any]]]:
    """Function, positional and named arguments of every call of a public name or of something of the result."""
    for call in nodes(path, ast.Call):
        parts = ast.unparse(call.func).split(".")
        if parts[0] == "erase":
            yield getattr(erase, parts[1]), call.args, {each.arg: each.value for each in call.keywords}
        if parts[0] == "result":
            owner = inspect.get_annotations(Result)[parts[1]] if parts[2:] else Result
            yield getattr(owner, parts[-1]), [None, *call.args], {each.arg: each.value for each in call.keywords}


def execute(cells: list[str]) -> list[Any]:
    """Run cells in one namespace as a kernel would; returns what they displayed, as HTML where it is rich."""
    shown: list[Any] = []

    def display(value: Any) -> None:
        shown.append(value._repr_html_() if hasattr(value, "_repr_html_") else value)

    namespace: dict[str, Any] = {"display": display}
    for cell in cells:
        tree = ast.parse(cell)
        if isinstance(tree.body[-1], ast.Expr):
            last = ast.copy_location(ast.Name("_last", ast.Store()), tree.body[-1])
            tree.body[-1] = ast.copy_location(ast.Assign([last], tree.body[-1].value), tree.body[-1])
        exec(compile(ast.fix_missing_locations(tree), "<cell>", "exec"), namespace)
        if (value := namespace.pop("_last", None)) is not None:
            display(value)
    return shown


@both
def test_a_notebook_keeps_to_the_public_names(path):
    modules = [alias.name for node in nodes(path, ast.Import) for alias in node.names]
    modules += [node.module for node in nodes(path, ast.ImportFrom)]
    assert set(modules) <= MODULES
    assert all(importlib.util.find_spec(module) for module in modules if module != "ipywidgets")
    used = [node for node in nodes(path, ast.Attribute) if isinstance(node.value, ast.Name)]
    assert {node.attr for node in used if node.value.id == "erase"} <= set(erase.__all__)
    offered = {*dir(Result), *inspect.get_annotations(Result)}
    assert {node.attr for node in used if node.value.id == "result"} <= offered


@both
def test_every_call_of_a_notebook_fits_its_signature(path):
    found = list(calls(path))
    assert {erase.load, erase.draw, erase.run, erase.probe} <= {function for function, *_ in found}
    for function, given, named in found:
        inspect.signature(function).bind(*given, **named)


def test_a_call_that_does_not_fit_would_be_noticed():
    with pytest.raises(TypeError, match="guidance"):
        inspect.signature(erase.draw).bind(None, "three", guidance=2)


@both
def test_settings_attacks_protocols_and_classes_of_a_notebook_exist(path):
    first = {}
    exec(code_of(path)[0], first)
    names = load_classes(first.get("MODEL", "digits"))
    assert {names.resolve(first[name]) for name in ("CLASS", "KEPT")} <= set(range(len(names)))
    drawn = [each for function, given, _ in calls(path) if function is erase.draw for each in given[1:]]
    assert all(names.resolve(each.value) >= 0 for each in drawn if isinstance(each, ast.Constant))

    assert {key.value for node in nodes(path, ast.Dict) for key in node.keys} <= SETTINGS
    attacks = [each.value for node in nodes(path, ast.List) for each in node.elts]
    assert all(map(load_probe, {each for each in attacks if each not in ("kind", "better", "unit")}))
    subscripts = [node for node in nodes(path, ast.Subscript) if ast.unparse(node.value) == "erase.PROTOCOLS"]
    assert {node.slice.value for node in subscripts} <= set(erase.PROTOCOLS)


def test_the_first_notebook_runs(tmp_path, erase_cache, quick_posterior, monkeypatch):
    """Its cells in order, made short by the one line that says how long they take."""
    first, *others = code_of(FIRST)
    assert LENGTH in first
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ERASE_CACHE", str(erase_cache))
    monkeypatch.setitem(Budget.__init__.__kwdefaults__, "num_images", 4)
    shown = execute([first.replace(LENGTH, "STEPS, IMAGES = 3, 10"), *others])
    pictures = [each.size for each in shown if hasattr(each, "size")]
    assert len(pictures) >= 3 and len(set(pictures[1:])) == 1
    pages = [each for each in shown if isinstance(each, str)]
    assert "three erased from digits" in pages[0] and "completion" in pages[-1]


@pytest.mark.slow
def test_the_first_notebook_runs_as_it_stands(tmp_path, monkeypatch):
    """In a kernel where nbclient is installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ERASE_CACHE", str(tmp_path / "cache"))
    if importlib.util.find_spec("nbclient") and importlib.util.find_spec("ipykernel"):
        import nbformat
        from nbclient import NotebookClient

        monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent))
        NotebookClient(nbformat.read(FIRST, as_version=4), timeout=None).execute()
    else:
        execute(code_of(FIRST))


def test_the_first_notebook_is_stored_with_its_pictures():
    """Whole, small enough for every host, from one run in order, without a path of the machine or a dead widget."""
    assert FIRST.stat().st_size < LARGEST
    words = re.sub(r"[A-Za-z0-9+/]{60,}", "", FIRST.read_text())  # without the pictures
    assert not any(each in words for each in ("widget-view", str(Path.home()), str(FOLDER.parent), "/tmp/"))
    cells = code_cells(FIRST)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"execute_result", "display_data", "stream"}
    rich = [kind for output in outputs for kind in output.get("data", {})]
    assert rich.count("image/png") >= 3 and rich.count("text/html") == 2


def test_the_second_notebook_is_stored_without_outputs():
    """Nobody ran it where this was made."""
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code_cells(SECOND))

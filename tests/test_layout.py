"""The floors of the architecture and the house rules, read from the source with ``ast``: nothing is imported."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("pipelines", "erase", "eval")
ROOF = ("erase/cli/", "erase/api/", "erase/batch/")
LIBRARY_METHODS = ("forward",)  # documented by torch.nn.Module
NOT_OURS = ("build", "dist", "runs", "venv")  # made by tools
Function = ast.FunctionDef | ast.AsyncFunctionDef


def python_files(*folders: str) -> list[Path]:
    """Every Python file below some folders of the repository."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


SOURCES = python_files(*PACKAGES)
FOLDERS = [each for each in ROOT.iterdir() if each.is_dir() and not each.name.startswith(".")]
FILES = sorted(ROOT.glob("*.py")) + python_files(*(each.name for each in FOLDERS if each.name not in NOT_OURS))


def name_of(path: Path) -> str:
    """The path within the repository."""
    return path.relative_to(ROOT).as_posix()


@cache
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text())


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute module of every import of a file, those inside functions too."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield node.lineno, module
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def packages_imported(path: Path) -> set[str]:
    """Which of the three packages a file imports."""
    return {module.split(".")[0] for _, module in imports_of(path)} & set(PACKAGES)


def functions_of(path: Path) -> Iterator[tuple[str, Function]]:
    """Every function of a file with its dotted name; those inside functions included."""

    def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function):
                yield prefix + child.name, child
            named = isinstance(child, (*Function.__args__, ast.ClassDef))
            yield from walk(child, f"{prefix}{child.name}." if named else prefix)

    yield from walk(parsed(path), f"{name_of(path)}: ")


def public_definitions(path: Path) -> Iterator[tuple[str, ast.AST]]:
    """The module, its public classes and functions, and the public methods of those classes."""
    module = parsed(path)
    yield name_of(path), module
    scopes = [(name_of(path) + ": ", module)]
    for prefix, scope in scopes:
        for node in scope.body:
            if isinstance(node, (*Function.__args__, ast.ClassDef)) and not node.name.startswith("_"):
                yield prefix + node.name, node
                if isinstance(node, ast.ClassDef):
                    scopes.append((f"{prefix}{node.name}.", node))


@cache
def classes() -> dict[str, ast.ClassDef]:
    """Every class of the packages by its bare name."""
    nodes = [node for path in SOURCES for node in ast.walk(parsed(path))]
    return {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}


def inherited(name: str, known: dict[str, ast.ClassDef]) -> set[str]:
    """Methods that the bases of a class document."""
    bases = [base.id for base in known[name].bases if isinstance(base, ast.Name) and base.id in known]
    own = {
        node.name
        for base in bases
        for node in known[base].body
        if isinstance(node, Function) and ast.get_docstring(node)
    }
    return own.union(*(inherited(base, known) for base in bases))


def test_the_files_are_found():
    """An empty list would pass every test below."""
    assert {name_of(path) for path in SOURCES} >= {"erase/loop.py", "eval/evaluate.py", "pipelines/model.py"}
    assert set(SOURCES) < set(FILES) and Path(__file__).resolve() in FILES


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import eval", {"eval"}),
        ("def f():\n    from eval.words import sentence", {"eval"}),
        ("from ..method import Method", {"erase"}),
        ("from .. import methods", {"erase"}),
        ("import torch.nn, pipelines.model as m", {"pipelines"}),
        ("from evaluate import x", set()),
    ],
)
def test_imports_are_read_wherever_they_stand(tmp_path, monkeypatch, source, found):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "erase" / "methods" / "some.py"
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert packages_imported(path) == found


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_arrows_point_down(path):
    """pipelines knows neither of the others, eval never erase, and erase eval only at the roof."""
    package = name_of(path).split("/")[0]
    forbidden = {"pipelines": {"erase", "eval"}, "eval": {"erase"}, "erase": {"eval"}}[package]
    if name_of(path).startswith(ROOF):
        forbidden = set()
    assert not packages_imported(path) & forbidden


def test_no_file_imports_eval_by_its_bare_name():
    """``import eval`` would hide the builtin: always ``from eval.evaluate import ...``."""
    found = []
    for path in FILES:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "eval" for alias in node.names):
                found.append(f"{name_of(path)}:{node.lineno}")
    assert found == []


def test_no_file_has_more_than_300_lines():
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in FILES}
    assert {name: length for name, length in lengths.items() if length > 300} == {}


def test_no_function_has_more_than_40_lines():
    lengths = {name: node.end_lineno - node.lineno + 1 for path in FILES for name, node in functions_of(path)}
    assert {name: length for name, length in lengths.items() if length > 40} == {}


def test_everything_public_has_a_docstring():
    """A method that overrides a documented one has its docstring already."""
    known, missing = classes(), []
    for path in SOURCES:
        for name, node in public_definitions(path):
            owner, _, method = name.partition(": ")[2].rpartition(".")
            overrides = owner in known and method in (*LIBRARY_METHODS, *inherited(owner, known))
            missing += [name] if not ast.get_docstring(node) and not overrides else []
    assert missing == []


def test_every_file_says_what_it_is():
    assert [name_of(path) for path in FILES if not ast.get_docstring(parsed(path))] == []


def test_no_blanket_except():
    found = []
    for path in FILES:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else "everything"
                if node.type is None or "Exception" in {part.strip(" ()") for part in caught.split(",")}:
                    found.append(f"{name_of(path)}:{node.lineno}")
    assert found == []


def test_no_public_signature_takes_kwargs():
    found = [
        name
        for path in SOURCES
        for name, node in functions_of(path)
        if node.args.kwarg is not None and not node.name.startswith("_")
    ]
    assert found == []


def test_every_public_signature_is_annotated():
    found = []
    for path in SOURCES:
        for name, node in public_definitions(path):
            if isinstance(node, Function):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                bare = [each.arg for each in arguments if each.annotation is None and each.arg not in ("self", "cls")]
                found += [f"{name}({', '.join(bare)})"] if bare or node.returns is None else []
    assert found == []

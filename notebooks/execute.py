"""Run ``visualize_erasure.ipynb`` from top to bottom and store its pictures and tables in it.

``python notebooks/execute.py`` needs ``pip install '.[notebook]'``. What only lives in a running notebook, progress
bars and knobs, is left out, so that a host which shows notebooks shows nothing half; of two forms of a picture the
exact one stays.
"""

import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent / "visualize_erasure.ipynb"
WIDGET = "application/vnd.jupyter.widget-view+json"


def is_kept(output: nbformat.NotebookNode) -> bool:
    """Whether an output says something without a kernel behind it."""
    progress = output.output_type == "stream" and output.name == "stderr"
    return not progress and WIDGET not in output.get("data", {})


def execute(path: Path) -> None:
    """Run a notebook in a folder of its own and write its outputs into it."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=None, resources={"metadata": {"path": folder}}).execute()
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if is_kept(output)]
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("image/jpeg", None)
    nbformat.write(notebook, path)


if __name__ == "__main__":
    execute(NOTEBOOK)

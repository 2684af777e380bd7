"""The notebook runs as it is, cell after cell."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "experiments" / "quickstart.ipynb"


@pytest.mark.extra
def test_every_cell_runs(tmp_path):
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    code = (
        "import nbclient, nbformat, sys\n"
        "notebook = nbformat.read(sys.argv[1], 4)\n"
        "nbclient.NotebookClient(notebook, timeout=600, kernel_name='python3').execute()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, NOTEBOOK], cwd=tmp_path, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "predictions.csv").is_file()
    assert (tmp_path / "ckpt" / "quickstart" / "report" / "report.html").is_file()


def test_it_holds_no_results():
    """Outputs of one machine would stay when the code changes."""
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)

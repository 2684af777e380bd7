"""Every command and every piece of Python in README and docs runs, shrunk to the tiny network on drawn lesions."""

import importlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# Commands that continuous integration itself consists of, those that need timm and torch, and long ones.
ELSEWHERE = ("make ", "pip install", "python experiments/bench_", "python experiments/port_parity.py")


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language in a page."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S)


def run_commands(page: Path, demo: Path, options: list[str]) -> None:
    """Run the commands of a page, one after the other, in this folder."""
    shutil.copytree(demo, "isic-2024-challenge")
    for line in "".join(blocks(page, "bash")).splitlines():
        words = shlex.split(line, comments=True)
        if not words or line.startswith(ELSEWHERE):
            continue
        if words[1].startswith("experiments/"):
            subprocess.run([sys.executable, ROOT / words[1], *words[2:]], check=True)
            continue
        assert words[:2] == ["python", "-m"], f"how is this tested: {line}"
        program, argv = words[2].removeprefix("jaxlesion."), words[3:]
        if program == "train" and "--data-dir" in argv:
            argv += [*options, "--epochs", "1"]
        importlib.import_module(words[2]).main(argv)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_run(page, demo, tiny_command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_commands(page, demo, tiny_command[2:])  # all but --data-dir
    if page.name == "README.md":  # five folds, the out-of-fold table and a submission
        oof = pd.read_csv("ckpt/paper/oof.csv")
        assert sorted(oof["fold"].unique()) == [0, 1, 2, 3, 4]
        assert sorted(oof["isic_id"]) == sorted(pd.read_csv(demo / "train-metadata.csv")["isic_id"])
        submission = pd.read_csv("submission.csv")
        assert list(submission.columns) == ["isic_id", "target"]
        assert submission["isic_id"].tolist() == pd.read_csv(demo / "test-metadata.csv")["isic_id"].tolist()
        assert submission["target"].between(0, 1).all()


@pytest.mark.b1
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_python_runs(page):
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), {})


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_options_in_the_docs_exist():
    from jaxlesion.ui.options import parse_train

    known = _help(parse_train)
    for page in PAGES:
        for option in re.findall(r"`(--[a-z]+\.[a-z-]+)", page.read_text()):
            assert option in known, f"{page.name}: {option}"


def _help(parse) -> str:
    import contextlib
    import io

    heard = io.StringIO()
    with contextlib.redirect_stdout(heard), pytest.raises(SystemExit):
        parse(["--help"])
    return heard.getvalue()

"""Every command and every piece of Python in README and docs runs, shrunk to the tiny network on drawn lesions.

Commands of the package run in this process. Experiments and blocks of shell run in processes of their own, marked
`extra`; `shrunk.py` stands in for `python`, `srun` and `mpirun` there. Only `pip install` and `make` are not run here:
continuous integration does that.
"""

import contextlib
import importlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import reference
import reliability
from shrunk import LAUNCHERS, NEED_TIMM, free_port, program_of, shrink

from jaxlesion.data.sources import open_images

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MAKES_DATA = ("tutorial.md",)  # whose commands read what its Python writes
READS_EXPORTS = ("export.md",)  # whose Python reads what its commands write
KINDS = {
    "package": re.compile(r"python -m jaxlesion\.\w+( |$)"),
    "experiment": re.compile(r"python (-m experiments\.|experiments/)"),
    "make": re.compile(r"make [a-z-]+( |$)"),
    "pip": re.compile(r"pip install -c constraints\.txt \.( |$)"),
}


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of one language in a page."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.S | re.M)
    return [block for name, block in fenced if name == language]


def kind(line: str) -> str | None:
    """Return how a line is tested alone; None for a line of shell."""
    return next((name for name, pattern in KINDS.items() if pattern.match(line)), None)


def lines_of(block: str) -> list[str]:
    return [line for line in block.splitlines() if line.split("#")[0].strip()]


def is_shell(block: str) -> bool:
    """Return whether a block makes sense as a whole only."""
    return any(kind(line) is None or line.endswith("\\") for line in lines_of(block))


def commands(page: Path, wanted: str) -> list[str]:
    """Return a page's commands of one kind."""
    listed = [block for block in blocks(page, "bash") if not is_shell(block)]
    return [line.split("  #")[0] for block in listed for line in lines_of(block) if kind(line) == wanted]


def with_any(wanted: str) -> list[Path]:
    return [page for page in PAGES if commands(page, wanted)]


@pytest.mark.parametrize("page", with_any("package"), ids=lambda page: page.name)
def test_commands_run(page, demo, tiny_run, tmp_path, monkeypatch):
    """One after the other, in one folder, but for lines of the README; the page is built, and not waited for."""
    monkeypatch.setattr("jaxlesion.serving.server.listen", lambda app, bound: bound.close())
    monkeypatch.setattr("jaxlesion.serving.examine.Examiner.warm_up", lambda *_: 0.0)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(demo, "isic-2024-challenge")
    with open_images(demo / "train-image.hdf5") as images:
        Path("lesion.jpg").write_bytes(images.read(next(iter(images.ids))))
    if page.name in MAKES_DATA:
        run_python(page)
    listed = "\n".join(commands(page, "package"))
    for name in set(re.findall(r"--run (ckpt/\S+)", listed)) - set(re.findall(r"--run-dir (ckpt/\S+)", listed)):
        shutil.copytree(tiny_run, name)  # that another page trains
    elsewhere = [] if page.name == "README.md" else commands(ROOT / "README.md", "package")
    for line in commands(page, "package"):
        if line.strip() in map(str.strip, elsewhere):
            continue
        words = shlex.split(line, comments=True)
        importlib.import_module(words[2]).main(shrink(words)[3:])
    if page.name in READS_EXPORTS:
        run_python(page)
    if page.name == "README.md":  # all folds, the out-of-fold table and a submission
        oof = pd.read_csv("ckpt/best/oof.csv")
        assert sorted(oof["fold"].unique()) == [0, 1, 2]
        assert sorted(oof["isic_id"]) == sorted(pd.read_csv(demo / "train-metadata.csv")["isic_id"])
        submission = pd.read_csv("submission.csv")
        assert list(submission.columns) == ["isic_id", "target"]
        assert submission["isic_id"].tolist() == pd.read_csv(demo / "test-metadata.csv")["isic_id"].tolist()
        assert submission["target"].between(0, 1).all()


@pytest.fixture
def run_shell(demo, tmp_path, monkeypatch):
    """A function that runs shell in a folder beside the data, with the stand-ins on PATH."""
    (tmp_path / "isic-2024-challenge").symlink_to(demo)
    with open_images(demo / "test-image.hdf5") as images:
        (tmp_path / "lesion.jpg").write_bytes(images.read(next(iter(images.ids))))
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("python", *LAUNCHERS):
        (folder / name).write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT}/tests/shrunk.py {name} "$@"\n')
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.setenv("PORT", str(free_port()))

    def run(text: str) -> None:
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        assert "error: " not in done.stderr, done.stderr[-3000:]  # of a process in the background
        for name in re.findall(r"--run-dir (\S+)", text):
            assert (tmp_path / name / "fold_0" / "oof.csv").is_file(), done.stderr[-3000:]
        for name in re.findall(r"--out (\S+)", text):
            assert (tmp_path / name).exists(), done.stderr[-3000:]

    return run


@pytest.mark.extra
@pytest.mark.parametrize("line", [line for page in PAGES for line in commands(page, "experiment")])
def test_an_experiment_runs(line, run_shell):
    if program_of(shlex.split(line)) in NEED_TIMM and not (find_spec("timm") and find_spec("torch")):
        pytest.skip("needs timm and torch, which are not installed")
    run_shell(line)


@pytest.mark.extra
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(map(is_shell, blocks(page, "bash")))], ids=lambda page: page.name
)
def test_shell_runs(page, run_shell):
    """One block after the other, in one folder."""
    for block in filter(is_shell, blocks(page, "bash")):
        run_shell(block)


def test_targets_of_make_exist_and_continuous_integration_runs_them():
    makefile = (ROOT / "Makefile").read_text()
    named = {name for page in PAGES for name in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.M)}
    assert {"train", "test", "lint", "chaos"} <= named
    for name in named:
        assert re.search(rf"^{name}:", makefile, re.M), f"the Makefile has no {name}"
    ran = re.findall(r"^(?:timeout \S+ )?make ([a-z-]+)", (ROOT / ".ci" / "run").read_text(), re.M)
    assert {"train", "test", "lint", "ci-extra"} <= set(ran)
    for path in re.findall(r"\btests/\S+\.py", makefile):
        assert (ROOT / path).is_file(), f"the Makefile names {path}"


def test_every_command_is_run_by_one_of_these():
    """No block is in another language of shells, and none without a language holds a command."""
    for page in PAGES:
        assert set(re.findall(r"^\s*```(.*)$", page.read_text(), re.M)) <= {"", "bash", "python"}, page.name
        for block in blocks(page, ""):
            assert not re.search(r"^\s*[$]?\s*(python|pip|make|srun|mpirun|bash|sh) ", block, re.M), page.name
    assert "--constraint constraints.txt" in (ROOT / "Makefile").read_text()  # as `pip install` in the README


@pytest.mark.b1
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if blocks(page, "python") and page.name not in (*MAKES_DATA, *READS_EXPORTS)],
    ids=lambda page: page.name,
)
def test_python_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_python(page)


def run_python(page: Path) -> None:
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), {})


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target, part in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text()):
            other = page.parent / target if target else page
            assert other.exists(), f"{page.name}: {target}"
            titles = re.findall(r"^#+ (.*)$", other.read_text(), re.M) if part else []
            assert not part or part in {re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles}, part


def test_pictures_in_html_are_there_and_have_words():
    for page in PAGES:
        for tag in re.findall(r"<(?:img|source) [^>]*>", page.read_text()):
            (name,) = re.findall(r'\bsrc(?:set)?="([^"]+)"', tag)
            assert (page.parent / name).is_file(), f"{page.name}: {name}"
            assert tag.startswith("<source") or re.search(r'alt="[^"]{20,}"', tag), f"{page.name}: {name}"


def test_the_readme_is_short_and_every_page_is_on_the_site():
    assert (ROOT / "README.md").read_text().count("\n") < 90
    listed = re.findall(r"^ +- [^:]+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    assert sorted(listed) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))


def test_the_faults_of_the_reliability_page_are_those_of_the_tests():
    text = reliability.DOCUMENT.read_text()
    assert text == reliability.rendered(text), "write it anew: python tests/reliability.py --write"


@pytest.mark.parametrize("page", reference.PAGES)
def test_the_reference_is_what_the_source_says(page):
    text = (reference.DOCS / page).read_text()
    assert text == reference.PAGES[page](), "write it anew: python tests/reference.py --write"


def test_files_in_the_docs_exist():
    for page in PAGES:
        for path in re.findall(r"\b((?:tests|experiments|jaxlesion)/[\w./-]+\.py)\b", page.read_text()):
            assert (ROOT / path).is_file(), f"{page.name}: {path}"


def test_options_in_the_docs_exist():
    from jaxlesion.ui.options import parse_tabular, parse_train

    known = _help(parse_train) + _help(parse_tabular)
    for page in PAGES:
        for option in re.findall(r"`(--[a-z]+\.[a-z-]+)", page.read_text()):
            assert option in known, f"{page.name}: {option}"


def _help(parse) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit):
        parse(["--help-all"])
    return printed.getvalue()

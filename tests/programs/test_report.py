"""The report of a run: its files, its content, and its safety in a browser."""

import base64
import hashlib
import io
import itertools
import json
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from browser import browsing, find_browser
from PIL import Image

from jaxlesion import report
from jaxlesion.core.errors import InputError
from jaxlesion.data.open import open_dataset
from jaxlesion.evaluation.crossfold import rank_within_folds
from jaxlesion.evaluation.metrics import pr_auc, roc_auc
from jaxlesion.inference.predictor import restore_variables
from jaxlesion.learning.step import make_grad_cam_step
from jaxlesion.model.registry import build_model
from jaxlesion.report import ReportConfig
from jaxlesion.reporting.pictures import batches_of, heat
from jaxlesion.reporting.source import Source
from jaxlesion.runs.store import Run
from jaxlesion.runtime.devices import data_mesh, shard_batch

PICTURES = {
    *("learning_curves", "roc", "precision_recall", "reliability", "decision_curve", "confusion", "scores"),
    *("augmentation", "false_positives", "false_negatives"),
}
INLINED = re.compile(r'<img src="data:image/png;base64,([^"]+)" alt="([^"]+)">')


@pytest.fixture(scope="module")
def written(tiny_run, tmp_path_factory):
    """Return the folder of a report on two folds, for data with an awkward name."""
    out = tmp_path_factory.mktemp("report") / "out"
    report.main(["--run", str(tiny_run), "--out", str(out), "--bootstrap", "50", "--data-name", "drawn <b> & co"])
    return out


@pytest.fixture
def one_fold(tiny_run, tmp_path):
    """Return a copy of the run in which only fold 0 is finished."""
    copy = tmp_path / "run"
    shutil.copytree(tiny_run, copy)
    shutil.rmtree(copy / "fold_1")
    Run.open(copy).collect_oof()
    return copy


def test_the_page_holds_every_picture_and_asks_nobody_for_anything(written):
    html = (written / "report.html").read_text()
    files = {path.stem: path.read_bytes() for path in written.glob("*.png")}
    assert files.keys() - {"subgroups"} == PICTURES
    inlined = [base64.b64decode(content) for content, _ in INLINED.findall(html)]
    assert sorted(inlined) == sorted(files.values())
    assert len(inlined) == html.count("<img")
    for picture in inlined:
        with Image.open(io.BytesIO(picture)) as image:
            image.load()
            assert min(image.size) > 100
    assert not re.search(r"https?:|//[a-z]|<script|@import|url\(", re.sub(INLINED, "", html))
    assert not list(written.glob(".*.tmp"))


def test_its_figures_are_those_of_the_out_of_fold_table(written, tiny_run):
    oof = pd.read_csv(tiny_run / "oof.csv")
    html, card = ((written / name).read_text() for name in ("report.html", "model_card.md"))
    rank = rank_within_folds(oof["target"], oof["prediction"], oof["fold"])
    for value in (roc_auc(oof["target"], rank), pr_auc(oof["target"], oof["prediction"])):
        assert f"{value:.3f}" in html
        assert f"{value:.3f}" in card
    for k in (0, 1):
        rows = oof[oof["fold"] == k]
        assert (
            f"| fold {k} | {len(rows)} | {rows['target'].sum()} | {roc_auc(rows['target'], rows['prediction']):.3f}"
            in card
        )


def test_it_has_the_clinical_figures_with_those_that_are_withheld_named(written):
    page = (written / "report.html").read_text()
    for text in ("Patients and decisions", "top 15", "by chance", "Decision curve per 1,000", "calls per patient"):
        assert text in page
    assert "a call is not a biopsy" in page
    card = (written / "model_card.md").read_text()
    assert set(re.findall(r"^\| \|(.*)\|$", card, re.M)) >= {" top 1 | top 5 | top 15 ", " 80% | 90% | 95% "}
    tables = [block.splitlines() for block in card.split("\n\n") if block.startswith("| |")]
    assert len(tables) > 4
    for table in tables:
        assert len({line.count("|") for line in table}) == 1


def test_the_card_answers_each_topic_of_claim_with_what_the_run_has(written):
    card = (written / "model_card.md").read_text()
    lines = [line for line in card[card.index("## CLAIM") :].splitlines() if line.startswith("|")][2:]
    sections = [line.split("|")[1].strip() for line in lines]
    assert sections[0] == "Title and abstract"
    for section in ("data", "reference standard", "data partitions", "model", "training", "evaluation"):
        assert f"Methods: {section}" in sections
    assert all(line.count("|") == 4 and line.split("|")[3].strip() for line in lines)


def test_the_mistakes_are_the_most_confident_ones(written, tiny_run):
    html = (written / "report.html").read_text()
    shown = re.findall(r'<th scope="row">(\S+)</th><td>\d</td><td>[\d.e-]+</td>', html)
    oof = pd.read_csv(tiny_run / "oof.csv", index_col="isic_id")
    assert shown
    assert len(shown) == len(set(shown))
    benign = [oof["prediction"][i] for i in shown if oof["target"][i] == 0]
    malignant = [oof["prediction"][i] for i in shown if oof["target"][i] == 1]
    assert benign == sorted(benign, reverse=True)
    assert malignant == sorted(malignant)


def test_it_says_what_the_data_are_and_that_drawn_ones_mean_nothing(written, tiny_run, demo):
    html, card = ((written / name).read_text() for name in ("report.html", "model_card.md"))
    assert "drawn &lt;b&gt; &amp; co" in html
    assert "<b>" not in html
    for text in (html, card):
        assert "120 lesions" in text
        assert "medical device" in text
        assert "drawn by a program" in text
        assert str(demo.parent) not in text
    ids = sorted(pd.read_csv(demo / "train-metadata.csv")["isic_id"])
    assert hashlib.sha256("".join(f"{i}\n" for i in ids).encode()).hexdigest() in card


def test_the_card_answers_every_item(written):
    card = (written / "model_card.md").read_text()
    items = re.findall(r"^\| (\d+)[a-g]? \| (.+) \| (.+) \|$", card, re.M)
    assert sorted({int(number) for number, _, _ in items}) == list(range(1, 28))
    assert all(answer.strip() for _, _, answer in items)
    widths = [line.count("|") for line in card.splitlines() if line.startswith(("| fold", "| part"))]
    assert len(set(widths)) == 1


def test_one_fold_without_checkpoints_or_calibration_is_enough_and_what_it_lacks_is_said(one_fold):
    shutil.rmtree(one_fold / "fold_0" / "checkpoints")
    (one_fold / "calibration.json").unlink()
    folder = report.report(ReportConfig(one_fold, bootstrap=0))
    html = (folder / "report.html").read_text()
    assert folder == one_fold / "report"
    for lacking in (
        "No threshold can be chosen",
        "No Grad-CAM",
        "No calibrated predictions",
        "others are not finished",
    ):
        assert lacking in html
    assert "pooled" not in html
    assert 'id="false_negatives"' in html or 'id="false_positives"' in html


def test_other_rows_than_the_held_out_ones_are_refused(one_fold):
    path = one_fold / "oof.csv"
    good = path.read_text()
    path.write_text("\n".join(good.splitlines()[:-1]) + "\n")
    with pytest.raises(InputError, match=r"does not hold the very rows of folds\.csv"):
        report.report(ReportConfig(one_fold))
    path.write_text(good)
    (one_fold / "fold_0" / "oof.csv").unlink()
    with pytest.raises(InputError, match="no finished fold"):
        report.report(ReportConfig(one_fold))
    with pytest.raises(InputError, match="--bootstrap"):
        report.report(ReportConfig(one_fold, bootstrap=-1))
    assert not (one_fold / "report").exists()


def test_grad_cam_is_by_the_fold_that_held_the_lesion_out(tiny_run):
    run = Run.open(tiny_run)
    dataset = open_dataset(run.config.data_dir)
    lesions = run.lesions(dataset)
    source = Source(run, dataset, lesions, lesions, {}, np.empty(0))
    batches = batches_of(source)
    fold = lesions["fold"].to_numpy()
    rows = np.flatnonzero((fold == 0) | (fold == 1))[:12]
    found = heat(source, batches, rows)
    mesh = data_mesh(8)
    step, put = make_grad_cam_step(build_model(run.config.model)), shard_batch(mesh)
    members = [restore_variables(run, k, mesh=mesh)[0] for k in (0, 1)]
    for k, row in enumerate(rows):
        expected = step(members[fold[row]], put(next(batches.plain(rows[k : k + 1]))))[0]
        np.testing.assert_array_equal(found[row], expected)
    assert any(found[row].any() for row in rows)


PROBE = """<script>
window.addEventListener('load', () => {
  const all = [...document.images], broken = all.filter(i => !(i.complete && i.naturalWidth > 0));
  document.documentElement.dataset.seen = JSON.stringify({
    pictures: all.length, broken: broken.map(i => i.alt), anchors: [...document.querySelectorAll('nav a')]
      .filter(a => !document.querySelector(a.getAttribute('href'))).length,
    overflow: document.documentElement.scrollWidth - window.innerWidth});
});
</script>"""


def test_a_browser_draws_every_picture_without_complaint(written, tmp_path):
    if (browser := find_browser()) is None:
        pytest.skip("no browser is installed")
    html = (written / "report.html").read_text()
    page = tmp_path / "probe.html"
    page.write_text(html.replace("</body>", PROBE + "</body>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    logged = ["--enable-logging=stderr", "--v=0", "--virtual-time-budget=5000", "--window-size=800,1000"]
    command = [browser, *flags, *logged, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    found = re.search(r'data-seen="([^"]+)"', done.stdout)
    assert found, done.stderr[-2000:]
    seen = json.loads(found[1].replace("&quot;", '"'))
    assert seen == {"pictures": html.count("<img"), "broken": [], "anchors": 0, "overflow": seen["overflow"]}
    assert seen["overflow"] <= 0
    assert "CONSOLE" not in done.stderr, done.stderr[-2000:]


# Of the page: its headings' levels, and what is wider than the window and cannot be scrolled by keyboard.
OUTLINE = "[...document.querySelectorAll('h1, h2, h3')].map(h => +h.tagName[1])"
STUCK = """[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1
  && !(e.closest('.wide') && e.closest('.wide').tabIndex === 0 && e.closest('.wide').ariaLabel)).length"""


@pytest.mark.extra
def test_the_page_can_be_read_at_every_width_light_and_dark_and_by_keyboard(written, tmp_path):
    if (path := find_browser()) is None:
        pytest.skip("no browser is installed")
    with browsing(path, tmp_path / "profile") as page:
        for width in (400, 800, 1400):
            for dark in (False, True):
                page.open(
                    (written / "report.html").as_uri(), width, dark=dark, until="document.readyState == 'complete'"
                )
                page.js("document.querySelectorAll('details').forEach(d => d.open = true)")
                assert page.least_contrast("body *") >= 4.5
                assert page.js("document.documentElement.scrollWidth") == width
                assert page.js(STUCK) == 0
        levels = page.js(OUTLINE)
        assert levels.count(1) == 1
        assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
        assert page.js("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"  # of the dark one
        assert not page.complaints()


def test_groups_without_figures_are_folded_away(written):
    html = (written / "report.html").read_text()
    part = html[html.index('<h2 id="groups">') : html.index('<h2 id="augmented">')]
    open_part, _, folded = part.partition("<details>")
    assert re.search(r"<summary>\d+ groups without figures", folded)
    assert "fewer than" in folded
    assert "fewer than" not in open_part
    rows = re.findall(r'<td class="figure">(.*?)</td><td class="figure">(.*?)</td>', folded, re.S)
    assert rows
    assert set(rows) == {("", "")}


def test_the_main_figures_come_first(written, tiny_run):
    html = (written / "report.html").read_text()
    first = html[html.index('<dl class="headline">') : html.index('<h2 id="data">')]
    oof = pd.read_csv(tiny_run / "oof.csv")
    rank = rank_within_folds(oof["target"], oof["prediction"], oof["fold"])
    assert f"<dt>ROC AUC</dt><dd>{roc_auc(oof['target'], rank):.3f}</dd>" in first
    assert f"<dd>{len(oof)}</dd><dd><small>{oof['target'].sum()} malignant; pooled</small>" in first

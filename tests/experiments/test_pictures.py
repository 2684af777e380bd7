"""The pictures of the docs: bands around ROC curves, folders from imports, and a page whose pictures are all there."""

import re

import numpy as np
import PIL.Image
import pytest
from test_layers import BELOW

from experiments import architecture, frontier, pictures
from experiments.picture_figures import GRID, band
from experiments.pictures import LARGEST, THEMES, Pictures
from jaxlesion.core.errors import InputError
from jaxlesion.evaluation.summary import Estimate


def test_a_band_holds_the_curve_and_is_wider_for_fewer_rows():
    rng = np.random.default_rng(0)

    def width(n):
        target = np.arange(n) % 2
        low, high = band(target, target + rng.normal(size=n), None, 300)
        middle = np.interp(0.3, GRID, (low + high) / 2)
        assert (low <= high).all()
        assert 0.6 < middle < 0.9  # of two normal distributions a deviation apart: 0.68
        return (high - low).mean()

    assert width(60) > 1.5 * width(600)


def test_a_band_of_perfect_ranks_is_the_perfect_curve():
    target = np.array([0] * 20 + [1] * 20)
    low, high = band(target, target.astype(float), None, 50)
    assert (low[1:] == 1).all()
    assert (high == 1).all()


def test_the_folders_are_those_of_the_layers_and_their_arrows_lead_down():
    uses = architecture.imports()
    assert set(uses) == {name or architecture.PROGRAMS for name in BELOW}
    for name, to in uses.items():
        allowed = BELOW["" if name == architecture.PROGRAMS else name].split()
        assert to <= {*allowed, "data"}, name  # `learning` takes one module of `data`


def test_an_arrow_that_follows_from_others_is_left_out():
    uses = {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert architecture.reduced(uses) == {"a": {"b"}, "b": {"c"}, "c": set()}
    assert [architecture.height(uses, name) for name in "abc"] == [2, 1, 0]


def test_points_of_a_frontier_are_read_as_written(tmp_path):
    cost = {"network": "tiny", "size": 32, "weights": 0.1, "working": 0.2, "milliseconds": 1.0}
    points = [cost, cost | {"size": 64, "roc_auc": Estimate(0.9, 0.8, 0.95), "pauc": Estimate(0.1, None, None)}]
    frontier.write(frontier.Frontier(out=tmp_path), points)
    assert frontier.read_points(tmp_path / "frontier.json") == points
    assert len(frontier.figure(points).axes) == 2
    assert len(frontier.figure([cost]).axes) == 1
    assert pictures.frontier_points(Pictures(frontier=tmp_path)) == points


@pytest.mark.parametrize(
    ("config", "part"),
    [
        ({"against": "r"}, "--against needs --run"),
        ({"frontier": "nowhere"}, "--frontier nowhere: has no frontier.json"),
    ],
)
def test_refused_options(config, part, tmp_path):
    paths = {name: tmp_path / value for name, value in config.items()}
    with pytest.raises(InputError, match=part.replace("nowhere", str(tmp_path / "nowhere"))):
        pictures.frontier_points(Pictures(**paths)) if "frontier" in paths else pictures.pictures(Pictures(**paths))


@pytest.fixture(scope="module")
def page(tiny_run, tmp_path_factory):
    """Return the page with all pictures of the tiny run."""
    out = tmp_path_factory.mktemp("drawn")
    return pictures.pictures(Pictures(run=tiny_run, crops=tiny_run, out=out, resamples=20, shrink=True))


def test_all_pictures_of_a_run_are_drawn_light_and_dark(page):
    text = page.read_text()
    assert "drawn by a program" in text
    for theme, (_, _, _, paper) in THEMES.items():
        names = re.findall(rf"images/([a-z]+)-{theme}\.(\w+)", text)
        assert [name for name, _ in names] == [
            *("architecture", "augmentation", "roc", "decision", "reliability", "gradcam", "frontier"),
        ]
        for name, end in names:
            path = page.parent / "images" / f"{name}-{theme}.{end}"
            assert path.stat().st_size <= LARGEST
            if end == "svg":
                assert paper in path.read_text()
            else:
                assert "#{:02x}{:02x}{:02x}".format(*PIL.Image.open(path).convert("RGB").getpixel((0, 0))) == paper
    alts = re.findall(r'alt="([^"]*)"', text)
    assert all(len(alt) > 30 for alt in alts)
    assert len(alts) == 7


def test_a_picture_is_the_same_each_time(page, tiny_run, tmp_path):
    again = pictures.pictures(Pictures(run=tiny_run, crops=tiny_run, out=tmp_path, resamples=20, shrink=True))
    drawn = [{path.name: path.read_bytes() for path in one.parent.glob("images/*[!r]-*")} for one in (page, again)]
    assert len(drawn[0]) == len(drawn[1]) > 10
    names = [name for name in drawn[0] if not name.startswith("frontier")]  # which is measured
    assert [name for name in names if drawn[0][name] != drawn[1][name]] == []

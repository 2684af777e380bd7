"""Draw the pictures of the docs, light and dark, and the page that shows them.

    python -m experiments.pictures
    python -m experiments.pictures --run ckpt/best --against ckpt/paper --frontier frontier

Without --run and --crops, two small networks are trained on drawn lesions, into --work, and their pictures mean nothing
clinically. With --run the curves are those of a run and, in the ROC curve, of another one on the same lesions. With
--crops the lesions are those of a run, too; check first that they may be shown. --frontier is a folder of
`experiments.frontier`; without it only the cost of four networks is measured. Plots are SVG, pictures of lesions PNG of
at most 128 colours. Hardware: 2 CPU cores; time: a quarter of an hour for the training, a minute for the rest.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import PIL.Image

from experiments import architecture, frontier
from experiments.picture_figures import contact_sheet, grad_cam_pairs, reliability_before_and_after, roc_with_bands
from experiments.results import environment
from jaxlesion.core import fields
from jaxlesion.core.errors import InputError
from jaxlesion.core.files import write_atomic
from jaxlesion.data.demo import write_demo
from jaxlesion.evaluation.bootstrap import LEVEL
from jaxlesion.evaluation.decision import decision_curve
from jaxlesion.evaluation.summary import EvalOptions
from jaxlesion.reporting import plots
from jaxlesion.reporting.page import is_demo
from jaxlesion.reporting.source import Source, read_source
from jaxlesion.runs.store import Run
from jaxlesion.runtime.compile_cache import keep_compiled
from jaxlesion.runtime.memory import prepare_process
from jaxlesion.train import train
from jaxlesion.ui.exits import run_program
from jaxlesion.ui.options import arguments, parse, parse_train
from jaxlesion.ui.terminal import say, show

if TYPE_CHECKING:
    from matplotlib.figure import Figure

THEMES = {  # ink, soft ink, lines, paper
    "light": ("#1c1e21", "#5c6370", "#d8dce2", "#ffffff"),
    "dark": ("#e6e6e6", "#a2a9b4", "#3a3f47", "#17191c"),
}
COLOURS, DPI = 128, 90  # of a PNG
LARGEST = 100_000  # bytes of a picture
DEMO = ("--preset", "demo", "--model.variant", "efficientnetv2_b0", "--fold", "all", "--folds.stratify")
INTRODUCTION = """# Pictures

What do the figures of jaxlesion look like? One command, `make pictures`, draws them all light and dark; with
`ARGS="--run RUN --against RUN"` of runs of your own.

```bash
python -m experiments.pictures
```"""
SHRUNK = ("--model.variant", "tiny", "--data.image-size", "32", "--optim.warmup-steps", "2")


@dataclass(frozen=True)
class Pictures:
    """Draw the pictures of the docs, light and dark, and the page that shows them."""

    run: Path | None = None
    """Folder of a run for the curves [default: a small one on drawn lesions]."""
    against: Path | None = None
    """Folder of another run on the same lesions, for the ROC curve."""
    crops: Path | None = None
    """Folder of a run with its checkpoints, whose crops may be shown [default: a small one on drawn lesions]."""
    data_dir: Path | None = None
    """Where the data of the runs lies now [default: where it lay in training]."""
    frontier: Path | None = None
    """Folder with frontier.json [default: the cost of four networks is measured]."""
    out: Path = Path("docs")
    """Folder of pictures.md and images/."""
    work: Path = Path("ckpt/pictures")
    """Folder of the small runs."""
    resamples: int = 2000
    """Resamples of patients for the bands of the ROC curve."""
    shrink: bool = False
    """Try everything in a minute: a tiny network for one epoch."""


@dataclass(frozen=True)
class Picture:
    """A picture: its title, what is on it for those who do not see it, what it shows, and how to draw it."""

    title: str
    alt: str
    caption: str
    draw: Callable[[], "Figure"]
    photographs: bool = False


def pictures(config: Pictures) -> Path:
    """Draw all pictures and write the page; return its path.

    Raises:
        InputError: --against without --run, or whatever is wrong with the runs.
    """
    if config.against is not None and config.run is None:
        raise InputError("--against needs --run: the run that it is compared with")
    keep_compiled()
    curves, crops = _sources(config)
    (config.out / "images").mkdir(parents=True, exist_ok=True)
    parts = [_introduction(curves[0], crops)]
    for name, picture in _all(config, curves, crops).items():
        files = {theme: _write(config.out / "images", name, theme, picture) for theme in THEMES}
        parts.append(_shown(picture, files))
        say(f"{name}: {', '.join(f'{size:,} bytes' for _, size in files.values())}")
    write_atomic(config.out / "pictures.md", "\n\n".join(parts) + "\n")
    show(f"pictures: {config.out / 'pictures.md'}")
    return config.out / "pictures.md"


def _sources(config: Pictures) -> tuple[list[Source], Source]:
    """Open the runs for the curves, the first of which is compared with the second, and that of the crops.

    What is not given is trained, small, on drawn lesions.
    """

    def opened(folder: Path, data_dir: Path | None) -> Source:
        return read_source(folder, data_dir, None, EvalOptions(resamples=0))

    small = []
    if config.run is None or config.crops is None:
        for name, epochs in (("few", 1), ("one", 1)) if config.shrink else (("12", 12), ("4", 4)):
            folder = config.work / f"{name}-epochs"
            _train(folder, epochs, SHRUNK if config.shrink else ())
            small.append(opened(folder, None))
    given = [opened(one, config.data_dir) for one in (config.run, config.against) if one is not None]
    return given or small, opened(config.crops, config.data_dir) if config.crops else small[0]


def _train(folder: Path, epochs: int, more: tuple[str, ...]) -> Run:
    data = write_demo(folder.parent / "demo-data")
    argv = [*DEMO, *more, "--data-dir", str(data), "--epochs", str(epochs)]
    return train(fields.replace(parse_train(argv), {"run_dir": folder, "resume": True}))


def _all(config: Pictures, sources: list[Source], crops: Source) -> dict[str, Picture]:
    """Return the pictures in the order of the page, by the names of their files.

    Args:
        config: of the pictures.
        sources: of the curves.
        crops: of the lesions that are shown.
    """
    source, names = sources[0], [one.run.folder.name for one in sources]
    calibrated = source.run.calibration().out_of_fold(source.columns[1], source.table["fold"])
    spec = crops.run.config.augment.recipe
    return {
        "architecture": Picture(
            "The package",
            "Diagram: the folders of the package from programs above to core below, with an arrow for each import",
            "Folders and the imports between them, read from the source; arrows that follow from others are left out.",
            architecture.figure,
        ),
        "augmentation": Picture(
            "Augmentation",
            "Contact sheet: malignant lesions, each in a row, unchanged and then as three draws by each back end",
            f"Recipe `{'full' if spec == 'none' else spec}` by Albumentations on the host and by JAX inside the step.",
            lambda: contact_sheet(crops, "full" if spec == "none" else spec),
            photographs=True,
        ),
        "roc": Picture(
            "ROC",
            f"ROC curves of {' and '.join(names)} with bands of their {LEVEL:.0%} intervals",
            f"Out of fold, each row ranked among the benign rows of its fold. Bands hold {LEVEL:.0%} of "
            f"{config.resamples:,} resamples of patients at each false positive rate; shaded is the area of pAUC.",
            lambda: roc_with_bands(dict(zip(names, sources, strict=True)), config.resamples),
        ),
        "decision": Picture(
            "Decision curve",
            "Net benefit by threshold probability: of the model, of calling all lesions and of calling none",
            f"{names[0]}, calibrated on the other folds, at the table's prevalence.",
            lambda: plots.decision_curve(decision_curve(source.columns[0], calibrated)),
        ),
        "reliability": Picture(
            "Reliability",
            "Observed share of malignant lesions by mean prediction, before and after calibration",
            "Bins of equally many rows with Wilson's intervals by patient, before and after calibration.",
            lambda: reliability_before_and_after(source, calibrated),
        ),
        "gradcam": Picture(
            "Grad-CAM",
            "Six lesions above, and the same below with the place of the evidence bright",
            "The malignant and the benign lesions of the highest out-of-fold predictions, each by the network that "
            "held it out.",
            lambda: grad_cam_pairs(crops),
            photographs=True,
        ),
        "frontier": _frontier(frontier_points(config)),
    }


def _frontier(points: list[dict[str, Any]]) -> Picture:
    """Return the picture of cost, and of ranking where it is known, by image size."""
    return Picture(
        "Frontier",
        "Line chart: milliseconds an image by image size, a line for each network"
        if all("roc_auc" not in point for point in points)
        else "ROC AUC and pAUC by milliseconds an image, a line for each network",
        "Time of the jitted prediction of a batch; networks take turns.",
        lambda: frontier.figure(points),
    )


def frontier_points(config: Pictures) -> list[dict[str, Any]]:
    """Return the points of --frontier, or measure the cost of networks alone.

    Raises:
        InputError: the folder has no frontier.json.
    """
    if config.frontier is None:
        networks = ["tiny"] if config.shrink else [f"efficientnetv2_b{k}" for k in range(4)]
        sizes = (32,) if config.shrink else (64, 96, 128)
        return frontier.costs([(name, size) for name in networks for size in sizes], 8, 3)
    path = config.frontier / "frontier.json"
    if not path.is_file():
        raise InputError(f"--frontier {config.frontier}: has no frontier.json; give the --out of experiments.frontier")
    return frontier.read_points(path)


def _write(folder: Path, name: str, theme: str, picture: Picture) -> tuple[str, int]:
    """Draw a picture in a theme and write it; return the name of its file and its size."""
    import matplotlib

    ink, soft, line, paper = THEMES[theme]
    inks = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), ink)
    style = {"svg.fonttype": "none", "svg.hashsalt": "jaxlesion", "font.family": "sans-serif", "grid.color": line}
    with matplotlib.rc_context({**style, **inks, "figure.facecolor": paper, "axes.facecolor": paper}):
        figure = picture.draw()
        _recolour(figure, {"#000000": ink, "#808080": soft})
        out = io.BytesIO()
        if picture.photographs:
            figure.savefig(out, format="png", dpi=DPI)
            content, end = _few_colours(out.getvalue()), "png"
        else:
            figure.savefig(out, format="svg", metadata={"Date": None})
            content, end = out.getvalue(), "svg"
    if len(content) > LARGEST:
        raise InputError(f"{name}: {len(content):,} bytes are too many for the docs; show less")
    write_atomic(folder / f"{name}-{theme}.{end}", content)
    return f"{name}-{theme}.{end}", len(content)


def _recolour(figure: "Figure", colours: Mapping[str, str]) -> None:
    """Change the colours of lines and marks that are drawn in black or grey, whatever the style says."""
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_hex
    from matplotlib.lines import Line2D

    for line in figure.findobj(Line2D):
        line.set_color(colours.get(to_hex(line.get_color()), line.get_color()))
    for lines in figure.findobj(LineCollection):
        lines.set_color([colours.get(to_hex(colour), colour) for colour in lines.get_colors()])


def _few_colours(picture: bytes) -> bytes:
    """Return a PNG with a palette."""
    out = io.BytesIO()
    PIL.Image.open(io.BytesIO(picture)).convert("RGB").quantize(COLOURS).save(out, format="png", optimize=True)
    return out.getvalue()


def _introduction(curves: Source, crops: Source) -> str:
    made = environment()
    how = f"{made['date']}: {made['machine']}; {made['software']}."
    parts = [INTRODUCTION, f"Curves: {_described(curves)}", f"Lesions: {_described(crops)}", how]
    return "\n\n".join(dict.fromkeys(parts))


def _described(source: Source) -> str:
    facts = f"{len(source.lesions):,} lesions, {int(source.lesions['target'].sum()):,} malignant"
    whose = ", drawn by a program, so that they mean nothing clinically" if is_demo(source) else ""
    return f"run `{source.run.folder.name}`, {facts}{whose}."


def _shown(picture: Picture, files: Mapping[str, tuple[str, int]]) -> str:
    """Return a picture as Markdown; a reader's dark mode gets the dark one."""
    light, dark = (f"images/{files[theme][0]}" for theme in THEMES)
    source = f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">'
    shown = f'<picture>{source}<img src="{light}" alt="{picture.alt}"></picture>'
    return f"## {picture.title}\n\n{shown}\n\n{picture.caption}"


if __name__ == "__main__":
    prepare_process()
    run_program(lambda: pictures(parse(Pictures, arguments(None), "pictures")))

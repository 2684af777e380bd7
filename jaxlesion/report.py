"""python -m jaxlesion.report: a run on one page, with its pictures, and its model card."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jaxlesion.core.config import Layout
from jaxlesion.core.errors import InputError
from jaxlesion.core.files import write_atomic
from jaxlesion.core.outputs import check_folder
from jaxlesion.evaluation.bootstrap import RESAMPLES
from jaxlesion.evaluation.summary import EvalOptions
from jaxlesion.reporting.page import page_context, render
from jaxlesion.reporting.source import read_source
from jaxlesion.runtime.memory import prepare_process
from jaxlesion.ui.exits import run_program
from jaxlesion.ui.options import arguments, parse
from jaxlesion.ui.outputs import check_outputs
from jaxlesion.ui.progress import ProgressBar, progress
from jaxlesion.ui.terminal import say, show

PAGES = ("report.html", "model_card.md")


@dataclass(frozen=True)
class ReportConfig:
    """Write report.html and model_card.md of a run, from its out-of-fold predictions."""

    run: Path
    """Folder of a run with at least one finished fold."""
    data_dir: Path | None = None
    """Where its data lies now [default: where it lay in training]. The hashes are checked."""
    data: Layout = field(default_factory=Layout)
    data_name: str | None = None
    """Name of the data in the report [default: the name of its folder]."""
    out: Path | None = None
    """Folder that is written to [default: report in the folder of the run]."""
    bootstrap: int = RESAMPLES
    """Draws for the intervals: of patients, or of rows where no patient has two. 0 for no intervals."""


def report(config: ReportConfig) -> Path:
    """Write the pictures, then report.html and model_card.md; return the folder.

    Raises:
        InputError: no run, no finished fold, other data than it was trained on, or a folder that cannot be made.
    """
    if config.bootstrap < 0:
        raise InputError(f"--bootstrap is a number of draws, 0 for none, not {config.bootstrap}")
    out = config.out or config.run / "report"
    check_folder("--out", out)
    if out.is_dir():
        check_outputs({f"--out, {name}:": out / name for name in PAGES}, config)
    with progress("bootstrap") as tick:
        source = read_source(
            config.run, config.data_dir, config.data.table, EvalOptions(resamples=config.bootstrap, tick=tick)
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"{out} cannot be made ({e.strerror}): give another --out") from None
    context = page_context(source, config.bootstrap, config.data_name, ProgressBar)
    for name, picture in context["pictures"].content.items():
        write_atomic(out / f"{name}.png", picture)
    for name in PAGES:
        write_atomic(out / name, render(name, context))
    for name, why in context["pictures"].missing.items():
        say(f"{name}: {why}")
    show(f"report: {out / 'report.html'}    model card: {out / 'model_card.md'}")
    return out


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command `python -m jaxlesion.report`."""
    prepare_process()
    run_program(lambda: report(parse(ReportConfig, arguments(argv), "report")))


if __name__ == "__main__":
    main()

"""python -m jaxlesion.tabular: train gradient-boosted trees on the metadata of lesions."""

from collections.abc import Sequence

from jaxlesion.boosting.train import train_tabular
from jaxlesion.core.experts import TabularConfig
from jaxlesion.core.hooks import Hooks
from jaxlesion.runs.store import Run
from jaxlesion.runtime.memory import prepare_process
from jaxlesion.ui.console import print_run
from jaxlesion.ui.exits import run_program
from jaxlesion.ui.options import arguments, parse_tabular
from jaxlesion.ui.progress import ProgressBar
from jaxlesion.ui.terminal import say, show


def tabular(config: TabularConfig) -> Run:
    """Train the wanted folds of a run, new or existing, and print progress and metrics.

    Raises:
        InputError: whatever about the data or the run the caller must put right.
    """
    run, lesions = train_tabular(config, Hooks(say, ProgressBar))
    print_run(run, lesions)
    show(f"run: {run.folder}    out-of-fold predictions: {run.folder / 'oof.csv'}")
    return run


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command `python -m jaxlesion.tabular`."""
    prepare_process()
    run_program(lambda: tabular(parse_tabular(arguments(argv))))


if __name__ == "__main__":
    main()

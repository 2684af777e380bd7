"""python -m jaxlesion.train: train the folds of a run and predict what each one held out, or a model of all rows."""

from collections.abc import Callable, Sequence

from jaxlesion.core.config import ALL_ROWS, TrainConfig
from jaxlesion.core.hooks import Hooks, ignore
from jaxlesion.runs.store import Run
from jaxlesion.runtime.memory import prepare_process
from jaxlesion.runtime.processes import end_together, join_processes, process_index
from jaxlesion.training.begin import DEMO_NOTE
from jaxlesion.training.run import train_run
from jaxlesion.training.watch import TensorBoard, both
from jaxlesion.ui.console import print_changes, print_fold, print_next
from jaxlesion.ui.exits import run_program
from jaxlesion.ui.options import arguments, parse_train
from jaxlesion.ui.progress import RunProgress
from jaxlesion.ui.terminal import quiet, say, show


def train(config: TrainConfig, observe: Callable[..., None] = ignore) -> Run:
    """Train the wanted folds of a run, new or existing, and print its progress and metrics.

    Args:
        config: of the run.
        observe: called with the events of the training, see `training.run.train_run`.

    Raises:
        InputError: whatever about the data, the weights or the run the caller must put right.
    """
    board = TensorBoard() if config.log == "tensorboard" else None
    progress = RunProgress()
    with join_processes(config.distributed, config.data.batch_size), quiet(process_index() > 0):
        if board is not None and process_index() == 0:
            observe = both(observe, board)
        hooks = Hooks(say, progress.meter, both(progress, observe))
        run = train_run(config, hooks, print_changes, print_fold)
        if run.config.preset == "demo":
            say(DEMO_NOTE)
        if config.fold == "none":
            show(f"run: {run.folder}    model of all rows: {run.fold(ALL_ROWS).model}")
        else:
            show(f"run: {run.folder}    out-of-fold predictions: {run.folder / 'oof.csv'}")
            if process_index() == 0:  # which has written the files
                print_next(run, progress.elapsed)
        return run


def main(argv: Sequence[str] | None = None, observe: Callable[..., None] = ignore) -> None:
    """Run the command `python -m jaxlesion.train`."""
    prepare_process()
    with end_together():
        run_program(lambda: train(parse_train(arguments(argv)), observe))


if __name__ == "__main__":
    main()

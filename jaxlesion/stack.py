"""python -m jaxlesion.stack: combine the out-of-fold predictions of several runs into one run."""

from collections.abc import Sequence

from jaxlesion.core.experts import StackConfig
from jaxlesion.inference.stacking import fit_stack
from jaxlesion.runs.store import Run
from jaxlesion.runtime.memory import prepare_process
from jaxlesion.ui.console import print_run
from jaxlesion.ui.exits import run_program
from jaxlesion.ui.options import arguments, parse
from jaxlesion.ui.terminal import say, show


def stack(config: StackConfig) -> Run:
    """Combine the runs, write the stack, and print its metrics.

    Raises:
        InputError: whatever about the runs or the folder the caller must put right.
    """
    run, lesions = fit_stack(config, say)
    print_run(run, lesions)
    show(f"run: {run.folder}    out-of-fold predictions: {run.folder / 'oof.csv'}")
    return run


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command `python -m jaxlesion.stack`."""
    prepare_process()
    run_program(lambda: stack(parse(StackConfig, arguments(argv), "stack")))


if __name__ == "__main__":
    main()

"""python -m jaxlesion.doctor: look at this machine, and say what to do where something is wrong."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jaxlesion.data.cache import CACHE as IMAGES
from jaxlesion.inference.engines import choose_engine
from jaxlesion.model.weights import CACHE as WEIGHTS
from jaxlesion.runs.hub import CACHE as HUB
from jaxlesion.runs.released import FOLDER
from jaxlesion.runtime.health import Line, check_machine, folder_line
from jaxlesion.runtime.memory import prepare_process
from jaxlesion.ui.exits import run_program
from jaxlesion.ui.options import arguments, parse
from jaxlesion.ui.terminal import show

WIDTH = max(map(len, ("compiled programs", "decoded images")))


@dataclass(frozen=True)
class DoctorConfig:
    """Show versions, devices, memory, caches and weights, a line each, and what to do where something is wrong."""


def doctor() -> int:
    """Print a line for each thing looked at; return how many need something done."""
    lines = [*check_machine(), *_files()]
    for line in lines:
        show(f"{'mend' if line.todo else 'ok':5}{line.what:{WIDTH}}  {line.found}")
        if line.todo:
            show(f"{'':5}{'':{WIDTH}}  -> {line.todo}")
    wrong = sum(line.todo is not None for line in lines)
    show("nothing to mend" if not wrong else f"{wrong} to mend")
    return wrong


def _files() -> Iterator[Line]:
    """Yield where weights and images are, relative to the working folder as for all commands."""
    yield Line("predict's engine", f"{choose_engine('auto')}, unless --engine names another")
    yield folder_line("first weights", WEIGHTS, "; --weights imagenet downloads them once")
    yield folder_line("models of the hub", HUB)
    yield folder_line("decoded images", IMAGES, "; it can be deleted")
    released = (FOLDER / "config.json").is_file()
    yield Line("released model", str(FOLDER) if released else "none: a clone of the repository has it, a wheel has not")


def _doctor(argv: Sequence[str] | None) -> int:
    parse(DoctorConfig, arguments(argv), "doctor")
    return doctor()


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command `python -m jaxlesion.doctor`; its exit code is 1 where something is to be mended."""
    prepare_process()
    wrong: list[int] = []
    run_program(lambda: wrong.append(_doctor(argv)))
    if any(wrong):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

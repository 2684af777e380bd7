"""python -m jaxlesion.app: a page, or a JSON service, on this machine that examines crops of lesions."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket
from types import ModuleType
from typing import Literal

from jaxlesion.core.config import Layout
from jaxlesion.data.open import open_dataset
from jaxlesion.data.schema import KEYS
from jaxlesion.runs.released import describe, open_released
from jaxlesion.runs.store import Run
from jaxlesion.runtime.memory import prepare_process
from jaxlesion.serving.examine import Examiner
from jaxlesion.serving.reference import neighbourhood
from jaxlesion.serving.server import bind, import_gradio, is_loopback, make_app, run_server
from jaxlesion.ui.exits import run_program
from jaxlesion.ui.options import arguments, parse
from jaxlesion.ui.terminal import say, show


@dataclass(frozen=True)
class AppConfig:
    """Examine crops of lesions on a page of this machine. For research. Not a medical device."""

    run: Path | None = None
    """Folder of a run of a network [default: the released model, ckpt/best-b1 of the clone]."""
    neighbours: Path | None = None
    """Folder with the run's training data, to show the nearest lesions and to recognise photographs unlike them
    [default: where it lay in training, if it is still there]."""
    data_dir: Path | None = None
    """Folder with a table and images: its rows can be picked on the page."""
    split: Literal["test", "train"] = "test"
    """Which table of --data-dir."""
    data: Layout = field(default_factory=Layout)
    fold: Literal["all", "none"] | None = None
    """all: the mean of the finished folds; none: the model of all rows [default: all if a fold is finished]."""
    checkpoint: Literal["last", "best"] = "last"
    """Which checkpoint of each fold predicts."""
    tta: Literal[1, 8] = 1
    """Views of each image whose logits are averaged, as in predict. All eight are shown in any case."""
    api: bool = False
    """Serve JSON at /predict, without a page."""
    host: str = "127.0.0.1"
    """Address to listen at. Any other than this machine's own lets others in, without a password."""
    port: int = 7860
    """Port to listen at; 0 for any that is free."""


def serve(config: AppConfig) -> None:
    """Serve until a signal ends it.

    Raises:
        InputError: whatever is wrong with run, data or address; or Gradio is not installed.
    """
    gradio, local = import_gradio(), is_loopback(config.host)
    with bind(config.host, config.port) as bound:
        _serve(config, gradio, bound, local=local)


def _serve(config: AppConfig, gradio: ModuleType, bound: socket, *, local: bool) -> None:
    """Serve at a socket that is bound."""
    run = open_released() if config.run is None else Run.open(config.run)
    examiner = Examiner(run, config.checkpoint, config.fold, config.tta)
    table = config.data_dir and open_dataset(config.data_dir, config.split, config.data, columns=KEYS, say=say)
    examiner.neighbourhood = neighbourhood(run, config.neighbours, say)
    say(describe(run) if config.run is None else f"{run.folder} predicts; for research, not a medical device")
    say(f"ready: an image takes {examiner.warm_up(say):.2f} s")
    if not local:
        say(f"warning: anyone who reaches {config.host} can use this: there is no password and no encryption")

    def ready() -> None:
        name = f"[{config.host}]" if ":" in config.host else config.host
        show(f"http://{name}:{bound.getsockname()[1]}{'/predict' if config.api else ''}")
        if examiner.neighbourhood is not None:
            examiner.neighbourhood.start(say)

    run_server(lambda: make_app(gradio, examiner, table, api=config.api, local=local), bound, ready)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command `python -m jaxlesion.app`."""
    prepare_process()
    run_program(lambda: serve(parse(AppConfig, arguments(argv), "app")))


if __name__ == "__main__":
    main()

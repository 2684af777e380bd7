"""python -m jaxlesion.export: a trained network for other programs, as ONNX, for timm and its hub, or as StableHLO."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxlesion.core.errors import InputError
from jaxlesion.core.files import write_atomic
from jaxlesion.core.outputs import check_file, check_folder
from jaxlesion.exporting.stablehlo import stablehlo
from jaxlesion.exporting.timm_folder import check_timm, push, write_hub, write_timm
from jaxlesion.exporting.trained import Trained, folds_meant, open_trained
from jaxlesion.model.onnx_graph import build_graph, import_onnx
from jaxlesion.runs.released import describe, open_released
from jaxlesion.runs.store import Run
from jaxlesion.runtime.memory import prepare_process
from jaxlesion.ui.exits import run_program
from jaxlesion.ui.options import arguments, parse
from jaxlesion.ui.terminal import say, show

OUT = {"onnx": "model.onnx", "stablehlo": "model.stablehlo", "timm": "model-timm", "hub": "model-hub"}


@dataclass(frozen=True)
class ExportConfig:
    """Write a run's networks for other programs: all folds, one of them, or the model of all rows."""

    to: Literal["onnx", "timm", "hub", "stablehlo"]
    """What to write. onnx: one file for ONNX Runtime, OpenVINO and others. timm: a folder that timm.create_model opens.
    hub: the same with the model card, for the Hugging Face hub. stablehlo: one file that jax.export opens, without this
    package."""
    run: Path | None = None
    """Folder of a run, or hf://USER/NAME [default: the released model, ckpt/best-b1 of the clone]."""
    out: Path | None = None
    """File or folder to write [default: model.onnx, model.stablehlo, model-timm or model-hub]."""
    fold: Literal["all", "none"] | int | None = None
    """all: the mean of the finished folds (onnx and stablehlo); a number: one of them; none: the model of all rows
    [default: all if a fold is finished]."""
    checkpoint: Literal["last", "best"] = "last"
    """Which checkpoint of each fold."""
    push: str | None = None
    """USER/NAME on the Hugging Face hub: upload what --to hub wrote, as the account that is logged in there."""
    public: bool = False
    """Make a new repository of --push public; otherwise its owner alone sees it."""


def export(config: ExportConfig) -> Path:
    """Write the file or folder, and return it.

    Raises:
        InputError: whatever is wrong with run, fold or options.
    """
    out = config.out or Path(OUT[config.to])
    if config.push is not None and config.to != "hub":
        raise InputError(f"--push uploads what --to hub writes, not --to {config.to}")
    if config.to in ("timm", "hub"):
        check_folder("--out", out)
    else:
        check_file("--out", out)
    if config.to == "onnx":
        import_onnx()  # before the work
    run = open_released() if config.run is None else Run.open(config.run)
    if config.run is None:
        say(describe(run))
    folds = folds_meant(run, config.fold)
    if config.to in ("timm", "hub"):
        check_timm(run, folds, out, hub=config.to == "hub")
    trained = open_trained(run, folds, config.checkpoint)
    _write(trained, config.to, out)
    show(f"{config.to}: {out}    {' '.join(trained.models)}")
    say(f"give it {trained.resizing}; for research, not a medical device")
    if config.push is not None:
        show(f"uploaded: {push(out, config.push, public=config.public)}")
    return out


def _write(trained: Trained, to: str, out: Path) -> None:
    if to == "timm":
        write_timm(trained, out)
    elif to == "hub":
        write_hub(trained, out)
    elif to == "stablehlo":
        write_atomic(out, stablehlo(trained))
    else:
        parts = trained.model, trained.members, trained.image_size, trained.correction(), trained.about()
        write_atomic(out, build_graph(*parts).SerializeToString())


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command `python -m jaxlesion.export`."""
    prepare_process()
    run_program(lambda: export(parse(ExportConfig, arguments(argv), "export")))


if __name__ == "__main__":
    main()

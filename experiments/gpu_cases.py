"""Options and cases, by name, of what `experiments.gpu_session` measures."""

from dataclasses import dataclass
from pathlib import Path

PLAIN = "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"  # compiled without running kernels
CUBLAS = "--xla_gpu_enable_triton_gemm=false"  # searches among cuBLAS's and cuDNN's kernels
ALL = "--xla_gpu_enable_triton_gemm=true"  # and among XLA's own, which programs leave out unless a flag names them


@dataclass(frozen=True)
class GpuSession:
    """Measure parity and speed on a GPU, in one call."""

    data_dir: Path
    """Folder with train-metadata.csv and train-image.hdf5."""
    out: Path = Path("gpu-session")
    """Folder of the results."""
    weights: str = "none"
    """imagenet, a .safetensors file in timm's names, or none."""
    only: tuple[str, ...] = ()
    """Beginnings of the names of cases [default: all]."""
    minutes: float = 10.0
    """Stop what is not measured by then."""
    repeats: int = 5
    """Groups of steps for each median."""
    shrink: bool = False
    """Try everything in a minute on a CPU: a tiny network on few small images."""
    case: str = ""
    """Be the process of this case; set by the program itself."""


@dataclass(frozen=True)
class Case:
    """Say what is measured.

    Args:
        kind: a key of `KINDS`.
        batch: images of a step.
        size: of the images, pixels.
        dtype: of the network.
        form: of convolutions, see `model.convolve`.
        flags: of XLA.
    """

    kind: str
    batch: int = 256
    size: int = 224
    dtype: str = "bfloat16"
    form: str = "auto"
    flags: str = PLAIN

    @property
    def name(self) -> str:
        """Return a name such as train_256_224_bfloat16."""
        parts = [self.kind, self.batch, self.size, self.dtype, *([self.form] if self.form != "auto" else [])]
        return "_".join(map(str, parts)) + {PLAIN: "", CUBLAS: "_searched", ALL: "_searched_all"}[self.flags]

    @property
    def alone(self) -> bool:
        """Return whether it is begun after the others: it takes long, or its compiler needs the GPU."""
        return self.flags != PLAIN or self.kind == "archive"


def cases() -> dict[str, Case]:
    """Return all cases by name, in the order in which they are begun."""
    found = [Case(kind, batch) for batch in (256, 1024, 32) for kind in ("train", "infer", "timm_train", "timm_infer")]
    found += [Case(kind, form="native") for kind in ("train", "infer")]
    found += [Case("train", 32, 128, "float32"), Case("train", 32, 128), Case("train", 256, 128)]
    found += [Case("parity", 32), Case("profile"), Case("archive", 1024, 128)]
    found += [Case("epochs", 32, 128), Case("epochs", 256, 128)]
    found += [Case("train", flags=CUBLAS), Case("train", form="native", flags=CUBLAS), Case("infer", flags=CUBLAS)]
    found += [Case("train", 32, 128, flags=CUBLAS), Case("train", 32, 128, flags=ALL)]
    return {case.name: case for case in found}

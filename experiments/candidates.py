"""The recipes that `experiments.recipes` compares, one line each. A new one is a line here."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

FIRST = "paper"  # what all others are compared with


@dataclass(frozen=True)
class Candidate:
    """A recipe: what it changes, in words and as options of training.

    Args:
        change: to the paper's recipe.
        options: of training, after those of the paper's recipe.
        preset: that the options start from.
        views: of each image at prediction.
        trained_as: another candidate whose runs it predicts by.
        over_seeds: makes one model of all seeds: the mean of their weights, or of their predictions.
    """

    change: str
    options: str = ""
    preset: str = "paper"
    views: int = 1
    trained_as: str | None = None
    over_seeds: Literal["weights", "predictions"] | None = None


GUESS = "--augment.mixup 0 --epochs 5 --model.dropout 0.2 --model.drop-path 0.1"
CHANGES_TO_GUESS = {
    "guess": ("negatives anew, scale and shift, dropout, drop path, larger steps, moving average", ""),
    "guess-10": ("10 epochs", "--epochs 10"),
    "guess-20": ("20 epochs", "--epochs 20"),
    "guess-1e-4": ("step size 1e-4, 10 epochs", "--epochs 10 --optim.learning-rate 1e-4"),
    "guess-1e-3": ("step size 1e-3", "--optim.learning-rate 1e-3"),
    "guess-strong": ("recipe strong", "--augment.recipe strong"),
    "guess-strong-12": ("recipe strong, 12 epochs", "--augment.recipe strong --epochs 12"),
    "guess-mixup-12": ("mixup, 12 epochs", "--augment.mixup 0.2 --epochs 12"),
    "guess-cutmix-12": ("CutMix, 12 epochs", "--augment.cutmix 1 --epochs 12"),
    "guess-crop-12": ("random resized crops, 12 epochs", "--augment.crop 0.4 --epochs 12"),
    "guess-decay-10": ("weight decay, 10 epochs", "--optim.weight-decay 0.05 --epochs 10"),
    "guess-layers": ("smaller steps in early layers", "--optim.layer-decay 0.8"),
    "guess-layers-12": ("smaller steps in early layers, 12 epochs", "--optim.layer-decay 0.8 --epochs 12"),
    "guess-head": ("classifier alone in the first epoch", "--optim.head-epochs 1"),
    "guess-even": ("as many positives in each batch", "--sampling.even"),
    "guess-few": ("3 negatives a positive, 14 epochs", "--sampling.negatives-per-positive 3 --epochs 14"),
    "guess-many": ("20 negatives a positive, 3 epochs", "--sampling.negatives-per-positive 20 --epochs 3"),
    "guess-smoothing": ("label smoothing", "--optim.label-smoothing 0.1"),
    "guess-batch-64": ("batches of 64, step size 6e-4", "--data.batch-size 64 --optim.learning-rate 6e-4"),
    "guess-ema-10": ("slower moving average, 10 epochs", "--optim.ema 0.998 --epochs 10"),
    "guess-all-15": (
        "strong, mixup, weight decay, smaller steps in early layers, 15 epochs",
        "--augment.recipe strong --augment.mixup 0.2 --optim.weight-decay 0.05 --optim.layer-decay 0.8 --epochs 15",
    ),
    "guess-96": ("96 px", "--data.image-size 96"),
    "guess-160": ("160 px", "--data.image-size 160"),
    "guess-192": ("192 px", "--data.image-size 192"),
    "guess-224": ("224 px", "--data.image-size 224"),
}

SECOND = "--augment.mixup 0 --epochs 10 --model.dropout 0.4 --model.drop-path 0.2"
STRONG, MIXUP = "--augment.recipe strong", "--augment.mixup 0.2"
CHANGES_TO_SECOND = {
    "second": ("the first with 10 epochs and twice the dropout and drop path", ""),
    "second-20": ("20 epochs", "--epochs 20"),
    "second-strong": ("recipe strong", STRONG),
    "second-strong-20": ("recipe strong, 20 epochs", f"{STRONG} --epochs 20"),
    "second-mixup": ("mixup", MIXUP),
    "second-mixup-20": ("mixup, 20 epochs", f"{MIXUP} --epochs 20"),
    "second-mixup-many-12": (
        "mixup, 20 negatives a positive, 12 epochs",
        f"{MIXUP} --sampling.negatives-per-positive 20 --epochs 12",
    ),
    "second-both-20": ("recipe strong, mixup, 20 epochs", f"{STRONG} {MIXUP} --epochs 20"),
    "second-decay": ("weight decay", "--optim.weight-decay 0.05"),
    "second-layers-15": ("smaller steps in early layers, 15 epochs", "--optim.layer-decay 0.8 --epochs 15"),
    "second-1e-4-20": ("step size 1e-4, 20 epochs", "--optim.learning-rate 1e-4 --epochs 20"),
    "second-1e-3": ("step size 1e-3", "--optim.learning-rate 1e-3"),
    "second-few": ("3 negatives a positive, 28 epochs", "--sampling.negatives-per-positive 3 --epochs 28"),
    "second-many": ("20 negatives a positive, 6 epochs", "--sampling.negatives-per-positive 20 --epochs 6"),
    "second-crop": ("random resized crops, 15 epochs", "--augment.crop 0.4 --epochs 15"),
    "second-ema": ("slower moving average", "--optim.ema 0.998"),
    "second-160": ("160 px", "--data.image-size 160"),
    "second-160-strong-15": ("160 px, recipe strong, 15 epochs", f"--data.image-size 160 {STRONG} --epochs 15"),
    "second-160-mixup-15": ("160 px, mixup, 15 epochs", f"--data.image-size 160 {MIXUP} --epochs 15"),
    "second-192": ("192 px", "--data.image-size 192"),
}


def _guesses() -> dict[str, Candidate]:
    """Return two guesses of several changes together, and what was tried on them, each also by 8 views.

    Each also stands there as one model of all seeds.
    """
    found = {}
    for which, base, changes in (("first", GUESS, CHANGES_TO_GUESS), ("second", SECOND, CHANGES_TO_SECOND)):
        for name, (change, options) in changes.items():
            text = f"a {which} guess{':' if '-' not in name else ','} {change}"
            views = Candidate(f"{text}; 8 views", preset="best", views=8, trained_as=name)
            found[name] = Candidate(text, f"{base} {options}".strip(), preset="best")
            found[f"{name}-views"] = views
            found[f"{name}-weights"] = replace(
                views, change=f"{text}; 8 views, mean of the seeds' weights", over_seeds="weights"
            )
            found[f"{name}-seeds"] = replace(
                views, change=f"{text}; 8 views, mean of the seeds' predictions", over_seeds="predictions"
            )
    return found


CANDIDATES: Mapping[str, Candidate] = MappingProxyType(
    {
        "paper": Candidate("the paper's recipe, 5 epochs", "--epochs 5"),
        "epochs": Candidate("12 epochs", "--epochs 12"),
        "redraw": Candidate("negatives anew each epoch", "--epochs 5 --sampling.redraw"),
        "few-negatives": Candidate(
            "3 negatives a positive, anew each epoch, as many steps",
            "--epochs 14 --sampling.negatives-per-positive 3 --sampling.redraw",
        ),
        "full": Candidate("scale and shift", "--epochs 5 --augment.recipe full"),
        "strong": Candidate("distortion, blur, colour, noise, erasing too", "--epochs 5 --augment.recipe strong"),
        "crop": Candidate("random resized crops", "--epochs 5 --augment.crop 0.4"),
        "mixup": Candidate("mixup", "--epochs 5 --augment.mixup 0.2"),
        "cutmix": Candidate("CutMix", "--epochs 5 --augment.cutmix 1"),
        "smoothing": Candidate("label smoothing", "--epochs 5 --optim.label-smoothing 0.1"),
        "ema": Candidate("moving average of the weights", "--epochs 5 --optim.ema 0.99"),
        "dropout": Candidate("dropout and drop path", "--epochs 5 --model.dropout 0.2 --model.drop-path 0.1"),
        "decay": Candidate("weight decay", "--epochs 5 --optim.weight-decay 0.05"),
        "rate": Candidate("three times the step size", "--epochs 5 --optim.learning-rate 3e-4"),
        "layers": Candidate("smaller steps in early layers", "--epochs 5 --optim.layer-decay 0.8"),
        "head": Candidate("classifier alone in the first epoch", "--epochs 5 --optim.head-epochs 1"),
        "even": Candidate("as many positives in each batch", "--epochs 5 --sampling.even"),
        "patients": Candidate("patients count alike", "--epochs 5 --sampling.weight-by patient_id"),
        "batch-16": Candidate("batches of 16", "--epochs 5 --data.batch-size 16"),
        "size-96": Candidate("96 px", "--epochs 5 --data.image-size 96"),
        "antialias": Candidate("antialiased resizing", "--epochs 5 --data.antialias"),
        "size-160": Candidate("160 px", "--epochs 5 --data.image-size 160"),
        "size-224": Candidate("224 px", "--epochs 5 --data.image-size 224"),
        "views": Candidate("8 views at prediction", views=8, trained_as="paper"),
        **_guesses(),
        "best": Candidate("the preset `best`", preset="best"),
        "best-views": Candidate("the preset `best`, 8 views at prediction", views=8, trained_as="best"),
        "best-weights": Candidate(
            "the same, mean of the seeds' weights", views=8, trained_as="best", over_seeds="weights"
        ),
        "best-seeds": Candidate(
            "the same, mean of the seeds' predictions", views=8, trained_as="best", over_seeds="predictions"
        ),
    }
)

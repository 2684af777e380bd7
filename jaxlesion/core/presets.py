"""Presets: what each changes of the defaults. `default` is the paper's method, augmented inside the step."""

import types
from collections.abc import Mapping
from typing import Any

from jaxlesion.core.config import Preset, TrainConfig
from jaxlesion.core.fields import replace

PRESETS: Mapping[Preset, dict[str, Any]] = types.MappingProxyType(
    {
        "default": {},
        "paper": {"augment.backend": "albumentations"},
        "best": {
            "epochs": 20,
            "data.image_size": 128,
            "folds.stratify": True,
            "sampling.negatives_kept": None,
            "sampling.negatives_per_positive": 10.0,
            "sampling.redraw": True,
            "augment.recipe": "full",
            "augment.mixup": 0.2,
            "model.dropout": 0.4,
            "model.drop_path": 0.2,
            "optim.learning_rate": 3e-4,
            "optim.ema": 0.99,
        },
        "baseline": {
            "epochs": 1,
            "data.max_records": 50_000,
            "augment.recipe": "none",
            "model.freeze": True,
            "optim.learning_rate": 1e-3,
            "optim.schedule": "constant",
            "optim.warmup_steps": 0,
        },
        "demo": {  # under two minutes on two cores, and it learns; the network is still the true B1
            "weights": "none",
            "data.image_size": 64,
            "data.batch_size": 16,
            "sampling.negatives_kept": None,
            "sampling.negatives_per_positive": 3.0,
            "optim.learning_rate": 1e-3,
            "optim.warmup_steps": 20,
        },
    }
)


def preset(name: Preset) -> TrainConfig:
    """Return the configuration that a preset starts from."""
    return replace(TrainConfig(preset=name), PRESETS[name])

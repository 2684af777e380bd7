"""The one type that both the data layer and a step import."""

from typing import NotRequired, TypedDict

import numpy as np


class Batch(TypedDict):
    """Holds the host arrays of one step. `mask` is the weight of each row in the loss, 0 where a row only fills up."""

    image: NotRequired[np.ndarray]  # uint8 [b, h, w, 3]; absent where the device holds the images
    label: np.ndarray  # float32 [b], 0 where unknown
    mask: np.ndarray  # float32 [b]
    groups: NotRequired[np.ndarray]  # int32 [b, columns], -1 where unknown; of training with auxiliary outputs
    row: np.ndarray  # int32 [b], position in the table; -1 where mask is 0

"""Recipes by Albumentations through tf.data: decode -> resize -> recipe -> batch -> prefetch, in threads.

Pixels are a function of (seed, epoch, row), whatever the threads.
"""

import os
from collections.abc import Callable, Iterator

import numpy as np

from jaxlesion.core.config import DataConfig
from jaxlesion.core.errors import InputError
from jaxlesion.core.recipes import RecipeSpec
from jaxlesion.data.albumentations import augmenter


def tensorflow():
    """Import TensorFlow, and keep it off the accelerators, which are JAX's."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # nothing here computes in TensorFlow; on, it writes to stderr
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    return tf


def augmented(
    rows: np.ndarray, image: Callable[[int], np.ndarray], spec: RecipeSpec, epoch: int, config: DataConfig
) -> Iterator[np.ndarray]:
    """Yield the augmented images of `rows`, uint8 [<= batch, h, w, 3] at a time.

    Args:
        rows: [n] positions in the table.
        image: gives a row's uint8 [h, w, 3]; called from `config.workers` threads.
        spec: the recipe.
        epoch: from 0.
        config: size, batch, seed and threads.

    Raises:
        InputError: raised by `image`.
    """
    tf = tensorflow()
    augment = augmenter(spec, config.seed)
    failures: list[InputError] = []

    def load(row: np.ndarray) -> np.ndarray:
        try:
            return augment(image(int(row)), epoch, int(row))
        except InputError as e:  # TensorFlow would bury it in a traceback of its own
            failures.append(e)
            raise

    def mapped(row):
        pixels = tf.numpy_function(load, [row], tf.uint8)
        return tf.ensure_shape(pixels, (config.image_size, config.image_size, 3))

    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = config.workers
    dataset = (
        tf.data.Dataset.from_tensor_slices(rows)
        .map(mapped, num_parallel_calls=config.workers)
        .batch(config.batch_size)
        .prefetch(2)
        .with_options(options)
    )
    try:
        yield from dataset.as_numpy_iterator()
    except tf.errors.OpError:
        if failures:
            raise failures[0] from None
        raise

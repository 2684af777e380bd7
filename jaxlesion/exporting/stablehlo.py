"""A trained network as StableHLO, which `jax.export` runs without this package, on a CPU or a GPU."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from jaxlesion.exporting.trained import Trained
from jaxlesion.model.convolve import IMPL
from jaxlesion.model.variables import normalise

PLATFORMS = ("cpu", "cuda")


def stablehlo(trained: Trained) -> bytes:
    """Serialise the networks with their weights, by `jax.export`.

    What is called is a function of images, uint8 [b, h, h, 3], with any b. It returns a dict of float32: `logits`
    [b, k], `prediction` [b] and, where the run is calibrated, `calibrated` [b], as in the ONNX graph.
    """
    model, correction = trained.model, trained.correction()
    members = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trained.members)

    def run(images: jax.Array) -> dict[str, jax.Array]:
        pixels = normalise(images, model.variant)
        logits = jax.lax.map(lambda variables: model.apply(variables, pixels)[:, 0], members).T
        outputs = {"logits": logits, "prediction": jax.nn.sigmoid(logits).mean(1)}
        if correction is not None:
            odds = correction.a + correction.b * (logits + jnp.asarray(correction.offset, jnp.float32)[None])
            outputs["calibrated"] = jax.nn.sigmoid(odds).mean(1)
        return outputs

    (batch,) = export.symbolic_shape("b")
    side = trained.image_size
    images = jax.ShapeDtypeStruct((batch, side, side, 3), np.uint8)
    with IMPL("each"):
        return bytes(export.export(jax.jit(run), platforms=PLATFORMS)(images).serialize())

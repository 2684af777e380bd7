"""The recipes in JAX match Albumentations, and pixels do not depend on the composition of a batch.

Bounds on statistics come from the sampling error of 2,000 draws: 4.5 standard errors, or the Kolmogorov-Smirnov
distance of probability 1e-4. Every draw is seeded, so that nothing here can fail by chance.
"""

import dataclasses
import functools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlesion.core.recipes import LIGHT, RECIPES, RecipeSpec
from jaxlesion.data.albumentations import augmenter
from jaxlesion.learning.augment import Draw, augment, draw, transform
from jaxlesion.runtime.devices import data_mesh, shard_batch

DRAWS, SIZE, ERRORS, DISTANCE = 2000, 33, 4.5, 2.23
SLOPE, MIDDLE = 7, 118
BACK_ENDS = ("jax", "albumentations")
ALONE = {
    "flips": RecipeSpec(flips=True),
    "rot90": RecipeSpec(rot90=True),
    "rotate": RecipeSpec(rotate=30.0),
    "scale": RecipeSpec(scale=0.1),
    "shift": RecipeSpec(shift=0.1),
    "brightness": RecipeSpec(brightness=0.2),
    "contrast": RecipeSpec(contrast=0.2),
    "crop": RecipeSpec(crop=0.4),
    "distort": RecipeSpec(distort=0.3),
    "saturation": RecipeSpec(saturation=0.3),
    "blur": RecipeSpec(blur=1.0),
    "noise": RecipeSpec(noise=0.04),
    "erase": RecipeSpec(erase=0.15),
}
WHOLE = {name: RECIPES[name] for name in ("light", "full", "strong")}
GEOMETRY = dataclasses.replace(RECIPES["full"], brightness=0.0, contrast=0.0)
# Unlike elsewhere in the tests, running 2,000 draws takes longer than compiling them.
jitted = jax.jit(augment, static_argnums=(1, 2), compiler_options={"xla_backend_optimization_level": 1})
applied = jax.jit(transform)


def textured(size: int = SIZE) -> np.ndarray:
    """Return a smooth random image, uint8 [size, size, 3], with all levels and eight distinct symmetries."""
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2.0), None, 0, 255, cv2.NORM_MINMAX)


def coordinates() -> np.ndarray:
    """Return an image that encodes positions: red rises by 7 levels a pixel to the right, green downwards."""
    steps = SLOPE * (np.arange(SIZE) - SIZE // 2)
    red, green = np.meshgrid(steps, steps)
    return (MIDDLE + np.stack([red, green, np.zeros_like(red)], -1)).astype(np.uint8)


@functools.cache
def drawn(back_end: str, spec: RecipeSpec, pattern=coordinates) -> np.ndarray:
    """Augment one image 2,000 times: uint8 [2000, 33, 33, 3]."""
    image = pattern()
    if back_end == "jax":
        rows = jnp.arange(DRAWS, dtype=jnp.int32)
        return np.asarray(jitted(jnp.broadcast_to(image, (DRAWS, *image.shape)), spec, 7, 1, rows))
    host = augmenter(spec, 7)
    return np.stack([host(image, 1, row) for row in range(DRAWS)])


@functools.cache
def recovered(back_end: str, spec: RecipeSpec) -> dict[str, np.ndarray]:
    """Estimate the parameters of each draw by least squares around the centre, where no pixel is padded or clipped."""
    near = slice(SIZE // 2 - 5, SIZE // 2 + 6)
    levels = drawn(back_end, spec)[:, near, near].reshape(DRAWS, -1, 3) - float(MIDDLE)
    y, x = (axis.ravel() for axis in np.mgrid[-5:6, -5:6])
    design = np.stack([x, y, np.ones_like(x)], 1)
    fit = np.einsum("kp,npc->nck", np.linalg.pinv(design), levels)  # [n, red green blue, x y 1]
    a, offset = fit[:, :2, :2] / SLOPE, fit[:, :2, 2] / SLOPE
    det = np.linalg.det(a)
    angle = np.arctan2(a[:, 1, 0] * np.sign(det), a[:, 0, 0] * np.sign(det))
    turn = np.round(angle / (np.pi / 2))
    middle = MIDDLE + levels[..., 2].mean(1)
    return {
        "mirrored": det < 0,
        "quarter": turn % 4,
        "angle": np.rad2deg(angle - turn * np.pi / 2),
        "factor": np.sqrt(np.abs(det)),  # contrast, or 1 / scale
        "x": -np.linalg.solve(a, offset[..., None])[:, 0, 0],
        "y": -np.linalg.solve(a, offset[..., None])[:, 1, 0],
        "middle": middle,  # the new value of MIDDLE
    }


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the two-sample Kolmogorov-Smirnov distance."""
    both = np.sort(np.concatenate([a, b]))
    at = [np.searchsorted(np.sort(part), both, side="right") / len(part) for part in (a, b)]
    return float(np.abs(at[0] - at[1]).max())


def z_scores(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the difference of the means of draws [n, k] in standard errors; 0 if both are the same constant."""
    error = np.sqrt((a.var(0) + b.var(0)) / len(a))
    return (a.mean(0) - b.mean(0)) / np.maximum(error, 1e-9)


@pytest.mark.parametrize("name", [*ALONE, *WHOLE])
def test_pixels_are_distributed_as_albumentations_distributes_them(name):
    """Compare mean and variance of each channel, a histogram of 16 bins, and means of the ninths of the image."""
    spec = (ALONE | WHOLE)[name]

    def features(images: np.ndarray) -> np.ndarray:
        flat = images.reshape(DRAWS, -1, 3).astype(np.float32)
        place = (images.reshape(DRAWS, -1) >> 4) + 16 * np.arange(DRAWS)[:, None]
        bins = np.bincount(place.ravel(), minlength=16 * DRAWS).reshape(DRAWS, 16) / place.shape[1]
        ninths = images.reshape(DRAWS, 3, 11, 3, 11, 3).mean((2, 4)).reshape(DRAWS, -1)
        return np.concatenate([flat.mean(1), flat.var(1), bins, ninths], 1)

    a, b = (features(drawn(back_end, spec, textured)) for back_end in BACK_ENDS)
    assert np.abs(z_scores(a, b)).max() < ERRORS
    spread = np.log(np.maximum(a.std(0), 1e-6) / np.maximum(b.std(0), 1e-6))
    assert np.abs(spread).max() < 0.25  # detects a range wrong by a third; no tighter, as bins are far from normal


@pytest.mark.parametrize(
    ("name", "parameter", "low", "high"),
    [
        ("rotate", "angle", -30, 30),
        ("scale", "factor", 1 / 1.1, 1 / 0.9),
        ("shift", "x", -3, 3),
        ("shift", "y", -3, 3),
        ("contrast", "factor", 0.8, 1.2),
        ("brightness", "middle", MIDDLE - 51, MIDDLE + 51),
    ],
)
def test_parameters_are_distributed_as_albumentations_distributes_them(name, parameter, low, high):
    a, b = (recovered(back_end, ALONE[name])[parameter] for back_end in BACK_ENDS)
    if name == "shift":
        a, b = np.round(a), np.round(b)  # whole pixels: the remainder is noise of the fit
    assert distance(a, b) < DISTANCE * np.sqrt(2 / DRAWS)
    reach = high - low
    for values in (a, b):
        assert low - 0.02 * reach <= values.min() < low + 0.02 * reach
        assert high - 0.02 * reach < values.max() <= high + 0.02 * reach


@pytest.mark.parametrize("name", ["rotate", "scale", "shift", "brightness", "contrast"])
@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_an_operation_does_what_it_says_and_nothing_else(name, back_end):
    touched = {
        "rotate": {"angle"},
        "scale": {"factor"},
        "shift": {"x", "y"},
        "brightness": {"middle", "x", "y"},  # more light moves the position of a level, not the picture
        "contrast": {"factor", "middle", "x", "y"},
    }[name]
    still = {"mirrored": 0, "quarter": 0, "angle": 0, "factor": 1, "x": 0, "y": 0, "middle": MIDDLE}
    for parameter, value in still.items():
        if parameter not in touched:
            np.testing.assert_allclose(recovered(back_end, ALONE[name])[parameter], value, atol=0.05)


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_one_scale_for_both_axes(back_end):
    """Check that circles stay circles: the columns of the fitted matrix are orthogonal and of equal length."""
    image = drawn(back_end, ALONE["scale"]).astype(float)
    near = slice(SIZE // 2 - 5, SIZE // 2 + 6)
    across = np.diff(image[:, SIZE // 2, near, 0], axis=1).mean(1)
    along = np.diff(image[:, near, SIZE // 2, 1], axis=1).mean(1)
    np.testing.assert_allclose(across, along, atol=0.1)  # in units of 7 levels: rounding, over 10 steps


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_the_eight_symmetries_are_equally_frequent(back_end):
    counts = np.zeros((2, 4))
    np.add.at(counts, tuple(recovered(back_end, GEOMETRY)[k].astype(int) for k in ("mirrored", "quarter")), 1)
    assert np.abs(counts - DRAWS / 8).max() < ERRORS * np.sqrt(DRAWS * 7 / 64)


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("spec", [LIGHT, GEOMETRY], ids=["light", "geometry of full"])
def test_parameters_are_independent_of_each_other(spec, back_end):
    got = recovered(back_end, spec)
    names = ["mirrored", "quarter", "angle", "factor", *(["middle"] if spec.contrast else ["x", "y"])]
    values = {name: got[name].astype(float) for name in names}
    if spec.contrast:
        values["middle"] -= MIDDLE * values["factor"]  # leaves the brightness
    r = np.corrcoef(list(values.values()))
    assert np.abs(r - np.eye(len(names))).max() < ERRORS / np.sqrt(DRAWS)


def still(**changes) -> Draw:
    """Return the identity transform with some values changed."""
    values = {"mirror": (1, 1), "quarter": 0, "angle": 0.0, "zoom": 1.0, "shift": (0, 0), "gain": 1.0, "lift": 0.0}
    return Draw(**{name: jnp.asarray(value) for name, value in (values | changes).items()})


def by_opencv(image: np.ndarray, angle: float, zoom: float, shift: tuple[int, int]) -> np.ndarray:
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), np.rad2deg(angle), zoom)
    matrix[:, 2] += shift
    return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


@pytest.mark.parametrize("shape", [(33, 33), (64, 64), (30, 45)])
@pytest.mark.parametrize(
    ("angle", "zoom", "shift"),
    [(0.4, 1.0, (0, 0)), (-0.5, 1.0, (0, 0)), (0.0, 1.1, (0, 0)), (0.0, 1.0, (3, -2)), (0.52, 0.9, (-3, 3))],
)
def test_the_same_map_as_opencv_for_the_same_parameters(shape, angle, zoom, shift):
    """Compare including the border. OpenCV 4 interpolates in steps of 1/32 pixel: up to 2 levels on this image."""
    image = textured(64)[: shape[0], : shape[1]]
    ours = np.asarray(applied(jnp.asarray(image), still(angle=angle, zoom=zoom, shift=shift))).astype(int)
    off = np.abs(ours - by_opencv(image, angle, zoom, shift))
    assert off.max() <= 2
    assert off.mean() < 0.25


@pytest.mark.parametrize("mirror", [(1, 1), (-1, 1), (1, -1), (-1, -1)])
@pytest.mark.parametrize("quarter", range(4))
@pytest.mark.parametrize("size", [32, 33])
def test_flips_and_quarter_turns_are_exact(mirror, quarter, size):
    image = textured(size)
    expected = np.rot90(image[:: mirror[1], :: mirror[0]], quarter)
    ours = applied(jnp.asarray(image), still(mirror=mirror, quarter=quarter))
    np.testing.assert_array_equal(ours, expected)


def test_flips_and_quarter_turns_come_before_the_rotation():
    image = textured(40)
    ours = applied(jnp.asarray(image), still(mirror=(-1, 1), quarter=1, angle=0.3, zoom=0.95, shift=(2, 1)))
    expected = by_opencv(np.ascontiguousarray(np.rot90(image[:, ::-1])), 0.3, 0.95, (2, 1))
    assert np.abs(np.asarray(ours).astype(int) - expected).max() <= 2


@pytest.mark.parametrize(
    ("gain", "lift"), [(1.1937, 0.0), (0.8063, 0.0), (1.0, 50.7), (1.0, -50.7), (1.1337, 20.3), (0.9219, -7.7)]
)
def test_the_same_levels_as_albumentations_for_the_same_parameters(gain, lift):
    import albucore

    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    ours = np.asarray(applied(jnp.asarray(levels), still(gain=gain, lift=lift))).astype(int)
    off = ours - albucore.multiply_add(levels, gain, lift)
    assert np.abs(off).max() <= 1
    assert (off != 0).mean() < 0.02  # a whole level may be truncated to either side


def test_nothing_drawn_leaves_the_image_as_it_is():
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 30, 45, 3), dtype=np.uint8))
    np.testing.assert_array_equal(applied(images[0], still()), images[0])
    assert augment(images, RECIPES["none"], 0, 0, jnp.arange(2)) is images


def test_quarter_turns_need_square_images():
    with pytest.raises(ValueError, match="not 30 x 45"):
        augment(jnp.zeros((1, 30, 45, 3), jnp.uint8), RECIPES["light"], 0, 0, jnp.arange(1))


@pytest.fixture(scope="module", params=["full", "strong"])
def recipe(request):
    return RECIPES[request.param]


@pytest.fixture(scope="module")
def batch(recipe):
    images = np.random.default_rng(0).integers(0, 256, (12, SIZE, SIZE, 3), dtype=np.uint8)
    rows = np.random.default_rng(1).permutation(400_000)[:12].astype(np.int32)
    return images, rows, np.asarray(jitted(images, recipe, 7, 3, rows))


def test_type_and_shape_are_kept(batch):
    images, _, result = batch
    assert (result.dtype, result.shape) == (np.uint8, images.shape)


@pytest.mark.parametrize("size", [1, 7])
def test_the_same_pixels_in_any_order_and_batch(batch, size, recipe):
    images, rows, result = batch
    order = np.random.default_rng(size).permutation(12)[:size]
    np.testing.assert_array_equal(jitted(images[order], recipe, 7, 3, rows[order]), result[order])


def test_the_same_pixels_on_two_devices(batch, recipe):
    images, rows, result = batch
    mesh = data_mesh(12)
    assert mesh.size == 2
    split = shard_batch(mesh)({"image": images, "row": rows})
    call = jitted.lower(split["image"], recipe, 7, jnp.int32(3), split["row"]).compile()
    assert "all-gather" not in call.as_text()  # each device works on its own images
    assert "all-reduce" not in call.as_text()
    np.testing.assert_array_equal(call(split["image"], jnp.int32(3), split["row"]), result)


def test_a_new_epoch_does_not_compile_anew(batch, recipe):
    images, rows, _ = batch
    counted = jax.jit(functools.partial(augment, spec=recipe, seed=7))
    results = [counted(images, epoch=jnp.int32(epoch), rows=rows) for epoch in range(3)]
    assert counted._cache_size() == 1
    assert not (results[0] == results[1]).all()


def test_row_epoch_and_seed_each_change_the_draw():
    def of(seed: int, epoch: int, row: int) -> tuple:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), epoch), row)
        return tuple(np.concatenate([np.ravel(x) for x in draw(key, RECIPES["full"], SIZE, SIZE)]).tolist())

    places = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1), (1, 0, 1)]
    assert len({of(*place) for place in places}) == len(places)
    assert of(0, 0, 0) == of(0, 0, 0)

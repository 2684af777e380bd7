import numpy as np
import pytest

from jaxlesion.core.config import DataConfig
from jaxlesion.core.errors import InputError
from jaxlesion.core.recipes import RECIPES
from jaxlesion.data.batches import Batches, epoch_order, spread_evenly, steps_per_epoch
from jaxlesion.data.open import open_dataset


@pytest.fixture(scope="module")
def dataset(demo):
    return open_dataset(demo)


def batches(dataset, **options) -> Batches:
    config = DataConfig(**{"image_size": 24, "batch_size": 8, "seed": 5, **options})
    return Batches(dataset.images, dataset.lesions["isic_id"], dataset.lesions["target"], config)


def test_order_is_a_permutation_by_seed_and_epoch():
    rows = np.arange(10, 40)
    assert sorted(epoch_order(rows, 0, 0)) == rows.tolist()
    np.testing.assert_array_equal(epoch_order(rows, 0, 1), epoch_order(rows, 0, 1))
    for other in ((0, 2), (1, 1)):
        assert epoch_order(rows, *other).tolist() != epoch_order(rows, 0, 1).tolist()


@pytest.mark.parametrize(
    ("rows", "positives", "size"), [(100, 9, 8), (64, 32, 8), (50, 3, 16), (40, 0, 8), (24, 24, 8)]
)
def test_every_batch_has_its_share_of_positives(rows, positives, size):
    order = epoch_order(np.arange(rows), 0, 0)
    starts = set()
    for epoch in range(40):
        spread = spread_evenly(order, order < positives, size, 0, epoch)
        assert sorted(spread) == sorted(order)
        counts = [(part < positives).sum() for part in np.split(spread, range(size, rows, size)) if len(part) == size]
        assert set(counts) <= {int(np.floor(size * positives / rows)), int(np.ceil(size * positives / rows))}
        starts.add(int(np.argmax(spread < positives)))
    if 0 < positives < rows / 2:
        assert len(starts) > 5  # no position of a batch is always a positive one


def test_weights_are_of_training_alone_and_keep_rows_and_pixels(dataset):
    rows, weight = np.arange(40), np.linspace(0.5, 2, len(dataset.lesions)).astype(np.float32)
    loader = batches(dataset)
    weighted = loader.teaching(False, weight)
    for feed in ("training", "rows_only"):
        options = (None, 1) if feed == "training" else (1,)
        for a, b in zip(getattr(loader, feed)(rows, *options), getattr(weighted, feed)(rows, *options), strict=True):
            np.testing.assert_array_equal(b["mask"], a["mask"] * weight[a["row"]])
            for name in set(a) - {"mask"}:
                np.testing.assert_array_equal(a[name], b[name])
    assert all((part["mask"] == 1).all() for part in weighted.plain(rows))


def test_plain_batches_hold_every_row_once_and_fill_up_with_masked_ones(dataset):
    rows = np.array([5, 3, 100, 7, 8, 9, 10, 11, 0, 1, 2])
    parts = list(batches(dataset).plain(rows))
    assert [p["image"].shape for p in parts] == [(8, 24, 24, 3)] * 2
    assert all(p["image"].dtype == np.uint8 for p in parts)
    row, mask = (np.concatenate([p[name] for p in parts]) for name in ("row", "mask"))
    assert row[mask > 0].tolist() == rows.tolist()
    assert mask.sum() == len(rows)
    assert (row[mask == 0] == -1).all()
    label = np.concatenate([p["label"] for p in parts])[mask > 0]
    np.testing.assert_array_equal(label, dataset.lesions["target"].to_numpy()[rows])


def test_plain_images_are_the_decoded_ones_resized(dataset):
    loader = batches(dataset)
    first = next(loader.plain(np.array([4])))
    np.testing.assert_array_equal(first["image"][0], loader.image(4))
    assert not first["image"][1:].any()


def test_pixels_and_order_do_not_depend_on_threads(dataset):
    rows = np.arange(40)
    one, four = (list(batches(dataset, workers=n).training(rows, RECIPES["full"], epoch=2)) for n in (1, 4))
    assert len(one) == len(four) == 5
    for a, b in zip(one, four, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_an_image_is_augmented_alike_in_any_batch(dataset):
    rows = np.arange(32)
    images = []
    for size in (4, 8):
        parts = list(batches(dataset, batch_size=size).training(rows, RECIPES["light"], epoch=1))
        by_row = dict(
            zip(np.concatenate([p["row"] for p in parts]), np.concatenate([p["image"] for p in parts]), strict=True)
        )
        images.append(np.stack([by_row[row] for row in rows]))
    np.testing.assert_array_equal(*images)


def test_an_epoch_can_start_at_any_step(dataset):
    rows = np.arange(40)
    whole = list(batches(dataset).training(rows, RECIPES["light"], epoch=3))
    rest = list(batches(dataset).training(rows, RECIPES["light"], epoch=3, start=3))
    assert len(rest) == 2
    for a, b in zip(whole[3:], rest, strict=True):
        np.testing.assert_array_equal(a["row"], b["row"])
        np.testing.assert_array_equal(a["image"], b["image"])


def test_epochs_differ_in_order_and_pixels(dataset):
    rows = np.arange(40)
    first, second = (next(batches(dataset).training(rows, RECIPES["light"], epoch)) for epoch in (0, 1))
    assert first["row"].tolist() != second["row"].tolist()
    alone = [next(batches(dataset, batch_size=1).training(np.array([7]), RECIPES["light"], epoch)) for epoch in (0, 1)]
    assert (alone[0]["image"] != alone[1]["image"]).any()


def test_training_rows_that_fill_no_whole_batch_wait_for_another_epoch(dataset):
    loader = batches(dataset)
    assert len(list(loader.training(np.arange(19), RECIPES["none"], 0))) == steps_per_epoch(np.arange(19), 8) == 2
    with pytest.raises(InputError, match="3 training rows do not fill one batch"):
        steps_per_epoch(np.arange(3), 8)


def test_an_image_that_does_not_decode_is_named(dataset, monkeypatch):
    loader = batches(dataset)
    bad = loader.ids[6]
    read = type(dataset.images).read
    monkeypatch.setattr(
        type(dataset.images), "read", lambda self, i: b"\xff\xd8\xff garbage" if i == bad else read(self, i)
    )
    with pytest.raises(InputError, match=bad):
        list(loader.plain(np.arange(16)))

import numpy as np
import pandas as pd
import pytest

from jaxlesion.boosting.patient import groups, relative

KINDS = ("z", "median", "difference", "rank", "ratio", "count")


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    numbers = pd.DataFrame(rng.gamma(2.0, 1.0, (60, 3)), columns=list("abc"))
    return numbers.mask(rng.random((60, 3)) < 0.1)


@pytest.fixture(scope="module")
def group() -> np.ndarray:
    return np.random.default_rng(1).integers(-1, 12, 60)


def by_hand(values: np.ndarray, x: float) -> dict[str, float]:
    known = values[~np.isnan(values)]
    found = {"median": np.median(known) if len(known) else np.nan, "count": len(values)}
    if np.isnan(x) or len(known) < 2:
        return found | dict.fromkeys(("z", "difference", "rank", "ratio"), np.nan)
    rank = (known < x).sum() + ((known == x).sum() + 1) / 2
    return found | {
        "z": (x - known.mean()) / known.std(ddof=1),
        "difference": x - np.median(known),
        "rank": (rank - 0.5) / len(known),
        "ratio": x / known.max(),
    }


def test_every_comparison_is_its_definition(table, group):
    found = relative(table, group, KINDS)
    for row in range(len(table)):
        for column in table:
            if group[row] < 0:
                assert found.iloc[row].isna().all()
                continue
            expected = by_hand(table[column][group == group[row]].to_numpy(), table[column][row])
            for kind in KINDS:
                name = "count" if kind == "count" else f"{kind}:{column}"
                assert found[name][row] == pytest.approx(expected[kind], rel=1e-5, nan_ok=True), (row, name)


def test_nothing_passes_from_one_patient_to_another(table, group):
    mine = group == 3
    changed = table.mask(~np.tile(mine[:, None], 3), 1e6)
    pd.testing.assert_frame_equal(relative(table, group, KINDS)[mine], relative(changed, group, KINDS)[mine])
    alone = relative(table[mine], group[mine], KINDS)
    pd.testing.assert_frame_equal(relative(table, group, KINDS)[mine], alone)


def test_the_order_of_rows_and_scales_change_nothing(table, group):
    order = np.random.default_rng(2).permutation(len(table))
    found = relative(table, group, KINDS)
    shuffled = relative(table.iloc[order], group[order], KINDS)
    np.testing.assert_allclose(shuffled.to_numpy(), found.to_numpy()[order], rtol=1e-6)
    scaled = relative(3 * table + 2, group, ("z", "rank"))
    np.testing.assert_allclose(
        scaled.to_numpy(), relative(table, group, ("z", "rank")).to_numpy(), rtol=1e-4, atol=1e-6
    )


def test_equal_values_have_no_z_score():
    found = relative(pd.DataFrame({"a": [0.1 + 0.2, 0.3, 0.3]}), np.zeros(3, int), ("z",))
    assert found["z:a"].isna().all()


def test_groups_are_of_patient_and_place_and_unknown_ones_have_none():
    lesions = pd.DataFrame(
        {"patient_id": ["a", "a", "b", None, "a"], "anatom_site_general": ["arm", "leg", "arm", "arm", None]}
    )
    assert groups(lesions, "patient").tolist() == [0, 0, 1, -1, 0]
    site = groups(lesions, "site")
    assert (site < 0).tolist() == [False, False, False, True, True]
    assert len(set(site[:3])) == 3
    assert (groups(lesions, "tile") < 0).all()
    assert (groups(lesions.drop(columns="patient_id"), "patient") < 0).all()

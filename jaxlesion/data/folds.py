"""The fold of every row, and the sampled negatives."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from jaxlesion.core.config import MAX_FOLDS, MAX_GROUPS, FoldsConfig, SamplingConfig
from jaxlesion.core.errors import InputError
from jaxlesion.data.identity import alike
from jaxlesion.data.tables import numbers, read_table

FEW_PATIENTS = 10  # with malignant lesions: below, a fold's metrics have no valid interval


def group_kfold(groups: np.ndarray, n: int) -> np.ndarray:
    """Assign a fold to every row by scikit-learn's GroupKFold: no group is in two folds, and sizes are similar.

    Deterministic: no seed.

    Args:
        groups: [rows] any sortable values.
        n: number of folds, 2 to MAX_FOLDS.

    Returns:
        [rows] int8 in 0 .. n-1.

    Raises:
        InputError: fewer groups than folds.
    """
    from sklearn.model_selection import GroupKFold

    group, names = pd.factorize(np.asarray(groups), sort=True)
    if len(names) < n:
        raise InputError(f"{n} folds need at least {n} groups, and there are {len(names)}: lower --folds.n")
    fold = np.empty(len(group), np.int8)
    for number, (_, inside) in enumerate(GroupKFold(n).split(group, groups=group)):
        fold[inside] = number
    return fold


def stratified_group_kfold(target: np.ndarray, groups: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Assign a fold to every row by scikit-learn's StratifiedGroupKFold: malignant rows are spread evenly too.

    Args:
        target: [rows] 0 or 1.
        groups: [rows] any sortable values; no group is in two folds.
        n: number of folds, 2 to MAX_FOLDS.
        seed: of the order in which equal groups are dealt.

    Returns:
        [rows] int8 in 0 .. n-1.

    Raises:
        InputError: fewer malignant rows or groups than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    group, names = pd.factorize(np.asarray(groups), sort=True)
    if min(len(names), target.sum()) < n:
        raise InputError(
            f"{n} stratified folds need at least {n} groups and {n} malignant rows, and there are {len(names)} and "
            f"{target.sum()}: lower --folds.n"
        )
    fold = np.empty(len(group), np.int8)
    splitter = StratifiedGroupKFold(n, shuffle=True, random_state=seed)
    for number, (_, inside) in enumerate(splitter.split(group, target, group)):
        fold[inside] = number
    return fold


def assign(lesions: pd.DataFrame, config: FoldsConfig) -> pd.DataFrame:
    """Add the column `fold` to the lesions, from a file, by GroupKFold or by StratifiedGroupKFold.

    Where patients are not known, and the groups are others, every lesion becomes a patient of its own.

    Raises:
        InputError: the group column is missing or has empty cells, two ids or groups read alike, a fold has one class
            only, or a given file misses lesions, or one patient would be in two folds.
    """
    if "patient_id" not in lesions:
        if config.file is None and config.group == "patient_id":
            raise InputError(
                "the table has no patient_id, so that folds may split patients: give --folds.group a column of groups, "
                "or --folds.group none to take every lesion as a patient of its own"
            )
        lesions = lesions.assign(patient_id=lesions["isic_id"])
    if not config.group_as_is:
        for column in dict.fromkeys(("isic_id", "patient_id", config.group)):
            if column in lesions:
                refuse_alike(lesions[column], column)
    if config.file is not None:
        fold = _from_file(lesions, config)
    else:
        groups = _groups(lesions, config.group)
        if config.stratify:
            fold = stratified_group_kfold(lesions["target"].to_numpy(), groups, config.n, config.seed)
        else:
            fold = group_kfold(groups, config.n)
    pairs = pd.DataFrame({"patient": lesions["patient_id"].to_numpy(), "fold": fold}).drop_duplicates()
    per_patient = pairs.groupby("patient").size()
    if (split := per_patient[per_patient > 1]).size:
        by = config.file or f"--folds.group {config.group}"
        raise InputError(f"{by}: patient {split.index[0]} is in {split.iloc[0]} folds; keep a patient in one")
    positives = lesions["target"].groupby(fold).agg(["sum", "size"])
    if (bad := (positives["sum"] == 0) | (positives["sum"] == positives["size"])).any():
        which = positives.index[bad][0]
        raise InputError(
            f"fold {which} holds {positives['sum'][which]} malignant of {positives['size'][which]} rows: "
            "both classes are needed to train and to score; use --folds.stratify, fewer folds (--folds.n), another "
            "--folds.group, or folds of your own (--folds.file)"
        )
    return lesions.assign(fold=fold)


def refuse_alike(cells: pd.Series, column: str, remedy: str = "give --folds.group-as-is") -> None:
    """Raise InputError where two texts of a column read alike, so that one patient or hospital would be two."""
    texts = cells.dropna().unique()
    if (pair := alike(text for text in texts if isinstance(text, str))) is not None:
        raise InputError(
            f"{column} {pair[0]!r} and {pair[1]!r} read alike: write them the same if they are one, or {remedy} if "
            "they are two"
        )


def _groups(lesions: pd.DataFrame, group: str) -> np.ndarray:
    """Return what stays together of each row."""
    if group == "none" and group not in lesions:
        return lesions["isic_id"].to_numpy()
    if group not in lesions:
        raise InputError(f"--folds.group {group}: the metadata has no such column; name one it has")
    if (empty := lesions[group].isna()).any():
        which = lesions["isic_id"][empty].iloc[0]
        raise InputError(f"{which} has no {group}: folds need one for every row; fill it in or drop the row")
    return lesions[group].to_numpy()


def describe(lesions: pd.DataFrame, config: FoldsConfig) -> list[str]:
    """Return a line on each fold: its rows, malignant rows and their patients; and advice where these are few.

    Args:
        lesions: with folds.
        config: that made them.
    """
    lines, fewest = [], None
    for fold, rows in lesions.groupby("fold"):
        malignant = rows[rows["target"] == 1]
        patients = malignant["patient_id"].nunique()
        fewest = patients if fewest is None else min(fewest, patients)
        lines.append(f"fold {fold}: {len(rows):,} rows, {len(malignant):,} malignant, of {patients:,} patients")
    if fewest is not None and fewest < FEW_PATIENTS:
        advice = "use fewer folds" if config.stratify or config.file else "consider --folds.stratify, or --folds.file"
        lines.append(f"a fold has malignant lesions of only {fewest} patients, too few for its metrics: {advice}")
    return lines


def _from_file(lesions: pd.DataFrame, config: FoldsConfig) -> np.ndarray:
    table = read_table(config.file, ("isic_id", "fold"))[["isic_id", "fold"]].drop_duplicates()
    if (twice := table["isic_id"].duplicated()).any():
        raise InputError(f"{config.file}: {table['isic_id'][twice].iloc[0]} is in two folds; keep one row for it")
    given = numbers(lesions["isic_id"].map(table.set_index("isic_id")["fold"]))
    if (missing := ~given.isin(range(MAX_FOLDS))).any():
        which = lesions["isic_id"][missing].iloc[0]
        raise InputError(f"{config.file}: no fold (a whole number from 0 to {MAX_FOLDS - 1}) for {which}; add it")
    return given.to_numpy(np.int8)


def sample(target: np.ndarray, rows: np.ndarray, config: SamplingConfig, key: tuple[int, ...]) -> np.ndarray:
    """Draw all positives and some negatives of `rows`, in ascending order.

    Args:
        target: [n] 0 or 1, of the whole table.
        rows: [m] positions in the table that may be drawn.
        config: a fraction of the negatives, or a number for each positive.
        key: seeds the draw, such as (seed, fold, 0).

    Returns:
        [k] positions. At least one negative, never more than there are.
    """
    positives, negatives = rows[target[rows] == 1], rows[target[rows] == 0]
    wanted = (
        config.negatives_kept * len(negatives)
        if config.negatives_per_positive is None
        else config.negatives_per_positive * len(positives)
    )
    count = min(len(negatives), max(1, round(wanted)))
    kept = np.random.default_rng(key).choice(negatives, count, replace=False)
    return np.sort(np.concatenate([positives, kept]))


def training_rows(lesions: pd.DataFrame, fold: int, config: SamplingConfig, seed: int, epoch: int = 0) -> np.ndarray:
    """Draw the positions [k] of the sampled rows outside `fold`, by (seed, fold), and by the epoch where asked for.

    The number of rows is the same in every epoch.
    """
    outside = np.flatnonzero(lesions["fold"].to_numpy() != fold)
    key = (seed, fold, 0, epoch) if config.redraw and epoch else (seed, fold, 0)
    return sample(lesions["target"].to_numpy(), outside, config, key)


def training_pool(lesions: pd.DataFrame, fold: int, config: SamplingConfig, seed: int) -> np.ndarray:
    """Return the positions [k] of all rows that some epoch may draw."""
    if config.redraw:
        return np.flatnonzero(lesions["fold"].to_numpy() != fold)
    return training_rows(lesions, fold, config, seed)


def validation_rows(lesions: pd.DataFrame, fold: int, config: SamplingConfig, seed: int) -> np.ndarray:
    """Draw the positions [k] of rows of `fold` at the training's sampling: the normalised validation set."""
    inside = np.flatnonzero(lesions["fold"].to_numpy() == fold)
    return sample(lesions["target"].to_numpy(), inside, config, (seed, fold, 1))


def group_weights(lesions: pd.DataFrame, rows: np.ndarray, column: str | None) -> np.ndarray | None:
    """Return the weight [n] of each row in the loss, so that within a class every group counts alike.

    A row of class c and group g weighs n_c / (G_c n_cg): of `rows`, n_c have the class, in G_c groups, and n_cg have
    both. The mean weight of a class is 1, so that the prior stays. Other rows weigh 0.

    Args:
        lesions: n rows.
        rows: [m] positions of those that may be trained on.
        column: of the groups; None for no weights.

    Raises:
        InputError: there is no such column, or a row has an empty cell.
    """
    if column is None:
        return None
    if column not in lesions:
        raise InputError(f"--sampling.weight-by {column}: the metadata has no such column; name one it has")
    some = lesions.iloc[rows]
    if (empty := some[column].isna()).any():
        raise InputError(f"--sampling.weight-by {column}: {some['isic_id'][empty].iloc[0]} has none; fill it in")
    by_class = some.groupby("target")[column]
    both = some.groupby(["target", column], observed=True)["isic_id"].transform("size")
    weight = np.zeros(len(lesions), np.float32)
    weight[rows] = by_class.transform("size") / (by_class.transform("nunique") * both)
    return weight


def group_numbers(lesions: pd.DataFrame, columns: Sequence[str]) -> np.ndarray | None:
    """Return the number of each row's group in each column, int32 [n, columns], in the order of their names.

    -1 where a cell is empty; None without columns.

    Raises:
        InputError: there is no such column, or it has more than MAX_GROUPS groups or fewer than two.
    """
    numbers = []
    for column in columns:
        if column not in lesions:
            raise InputError(f"--model.auxiliary {column}: the metadata has no such column; name one it has")
        number, names = pd.factorize(lesions[column], sort=True)
        if not 2 <= len(names) <= MAX_GROUPS:
            raise InputError(f"--model.auxiliary {column}: has {len(names)} groups, not 2 to {MAX_GROUPS}")
        numbers.append(number)
    return np.stack(numbers, 1).astype(np.int32) if numbers else None


def subset(lesions: pd.DataFrame, max_records: int | None, seed: int) -> pd.DataFrame:
    """Draw at most `max_records` rows by seed, at the table's share of positives (rounded up), in table order."""
    if max_records is None or max_records >= len(lesions):
        return lesions
    target, rng = lesions["target"].to_numpy(), np.random.default_rng((seed, 0, 2))
    positives, negatives = np.flatnonzero(target == 1), np.flatnonzero(target == 0)
    count = min(len(positives), -(-len(positives) * max_records // len(lesions)))
    rows = np.concatenate(
        [
            rng.choice(positives, count, replace=False),
            rng.choice(negatives, min(len(negatives), max_records - count), replace=False),
        ]
    )
    return lesions.iloc[np.sort(rows)].reset_index(drop=True)

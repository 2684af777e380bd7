"""A bag of gradient-boosted trees by LightGBM (Ke et al. 2017), and its files: text, never a pickle."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from jaxlesion.boosting.features import Features
from jaxlesion.core.errors import InputError
from jaxlesion.core.experts import TreesConfig
from jaxlesion.core.files import sha256, write_atomic
from jaxlesion.core.hooks import ignore

if TYPE_CHECKING:
    from lightgbm import Booster

ROWS_A_THREAD = 20_000  # below, threads wait for each other longer than they work
MEMBER = "trees-{}.txt"


def lightgbm() -> ModuleType:
    """Import LightGBM; InputError that says how to install it."""
    try:
        import lightgbm
    except (ImportError, OSError) as e:  # OSError: without libgomp
        raise InputError(
            f"gradient boosting needs LightGBM ({e}): pip install 'jaxlesion[tabular]', and on Debian apt install "
            "libgomp1"
        ) from None
    return lightgbm


def _threads(rows: int) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, rows // ROWS_A_THREAD))


def fit_member(
    features: Features,
    rows: np.ndarray,
    target: np.ndarray,
    config: TreesConfig,
    seed: int,
    after: Callable[[int], None] = ignore,
) -> "Booster":
    """Fit one member of a bag.

    Args:
        features: of all n rows.
        rows: [m] those to train on.
        target: [n] 0 or 1.
        config: of the trees.
        seed: of the rows and features that each tree sees. The same seed and rows give the same trees, whatever the
            number of threads.
        after: called with 1 after each tree.
    """
    lgb = lightgbm()
    parameters = {
        "objective": "binary",
        "learning_rate": config.learning_rate,
        "num_leaves": config.leaves,
        "min_data_in_leaf": config.min_rows,
        "lambda_l2": config.l2,
        "max_bin": config.bins,
        "bagging_fraction": config.rows,
        "bagging_freq": 1,
        "feature_fraction": config.columns,
        "cat_smooth": 50.0,
        "cat_l2": 50.0,
        "seed": seed % 2**31,
        "deterministic": True,
        "force_col_wise": True,
        "num_threads": _threads(len(rows)),
        "verbosity": -1,
    }
    data = lgb.Dataset(
        features.values[rows],
        target[rows],
        feature_name=_plain(features.names),
        categorical_feature=features.categories,
        free_raw_data=True,
        params=parameters,
    )
    return lgb.train(parameters, data, config.trees, callbacks=[lambda _: after(1)])


def _plain(names: Sequence[str]) -> list[str]:
    """Return names that LightGBM's text can hold; what they mean is in features.json."""
    return [f"f{number}" for number in range(len(names))]


def log_odds(members: Sequence["Booster"], values: np.ndarray) -> np.ndarray:
    """Return the mean of the members' log odds [n] for features [n, features]."""
    threads = _threads(len(values))
    return np.mean([member.predict(values, raw_score=True, num_threads=threads) for member in members], axis=0)


def write_members(folder: Path, members: Sequence["Booster"]) -> dict[str, str]:
    """Write a bag, a text file for each member; return the SHA-256 of each by its name."""
    digests = {}
    for number, member in enumerate(members):
        name, content = MEMBER.format(number), member.model_to_string().encode()
        write_atomic(folder / name, content)
        digests[name] = hashlib.sha256(content).hexdigest()
    return digests


def read_members(
    folder: Path, count: int, names: Sequence[str], digests: Mapping[str, str] | None = None
) -> list["Booster"]:
    """Read a bag.

    Args:
        folder: of the fold.
        count: members of the bag.
        names: of the features.
        digests: from `write_members`; None where an earlier version kept none.

    Raises:
        InputError: a file is missing, damaged or changed, or of other features.
    """
    lgb, members = lightgbm(), []
    for number in range(count):
        path = folder / MEMBER.format(number)
        if digests is not None and path.is_file() and digests.get(path.name) != sha256(path):
            raise InputError(
                f"{path}: its SHA-256 is not the one in features.json: put back what training wrote, or delete "
                f"{folder} and train the fold again"
            )
        try:
            text = path.read_text()
            if not text.startswith("tree\n") or "end of trees" not in text:
                raise ValueError("it is cut off")
            member = lgb.Booster(model_str=text)
        except (OSError, ValueError, lgb.basic.LightGBMError) as e:
            raise InputError(f"{path}: not readable as trees ({e}); put back what training wrote") from None
        if member.feature_name() != _plain(names):
            raise InputError(
                f"{path}: has {member.num_feature()} features, not the {len(names)} of features.json; put back what "
                "training wrote"
            )
        members.append(member)
    return members


def contributions(members: Sequence["Booster"], values: np.ndarray) -> np.ndarray:
    """Return each feature's share of the log odds [n, features + 1] (SHAP, Lundberg et al. 2020), then the constant.

    A row's shares add up to its log odds.
    """
    parts = [member.predict(values, pred_contrib=True, num_threads=_threads(len(values))) for member in members]
    return np.mean(parts, axis=0)

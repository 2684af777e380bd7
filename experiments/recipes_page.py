"""The page of `experiments.recipes`: its finished lines as tables."""

from typing import Any

from experiments.candidates import CANDIDATES, FIRST
from experiments.results import markdown, shown
from jaxlesion.evaluation.summary import Estimate

CHOOSING = (0, 1)  # folds
METRICS = (("AUC", "roc_auc"), ("pAUC", "pauc"), ("log loss", "log_loss"))
TITLE = """# Recipes

What does each change to the paper's recipe bring? Every line below is a training on the same patients, which differs
from the paper's recipe by what the line says. The first line has the paper's metrics. The others have their difference
to it, with the 95 % interval of the difference by patient. Probabilities for the log loss are calibrated across folds.
With several seeds, the metrics are of all seeds' predictions, each row ranked within its fold and seed.

```bash
python -m experiments.recipes --data-dir isic-2024-challenge --out recipes
```"""
DECIDING = "## Folds that nothing was chosen on"
CHOSE = "## Folds 0 and 1: used for choosing"


def page(lines: list[dict[str, Any]]) -> str:
    """Return recipes.md: the folds that decide first, then those that chose."""
    parts = [TITLE]
    for choosing, title in ((False, DECIDING), (True, CHOSE)):
        chosen = [one for one in lines if (set(one["folds"]) <= set(CHOOSING)) == choosing]
        if chosen:
            rows = "; ".join(sorted({f"{one['data']}, begun from {one['weights']}" for one in chosen}))
            parts += [title, f"Of the rows of these folds: {rows}.", _table(chosen)]
    made = sorted(
        {
            f"- {one['made']['date']}: trained on {one['trained_on']}; tables made on {one['made']['machine']}; "
            f"{one['made']['software']}."
            for one in lines
        }
    )
    return "\n\n".join([*parts, "## Made on", "\n".join(made)]) + "\n"


def _table(lines: list[dict[str, Any]]) -> str:
    """Return a table of candidates in the order of `CANDIDATES`."""
    order = list(CANDIDATES)
    rows = []
    for one in sorted(lines, key=lambda one: (one["base_size"], order.index(one["name"]))):
        first = one["name"] == FIRST
        cells = [shown(Estimate(*one["values"][key])) if first else _signed(one, key) for _, key in METRICS]
        folds, seeds = (" ".join(map(str, one[key])) for key in ("folds", "seeds"))
        cost = "" if one["core_seconds"] is None else f"{one['core_seconds']:,.0f}"
        rows.append([one["change"], f"`{one['name']}`", str(one["image_size"]), folds, seeds, *cells, cost])
    header = ["change", "name", "px", "folds", "seeds", *(label for label, _ in METRICS), "core s a fold"]
    return markdown(header, rows)


def _signed(one: dict[str, Any], key: str) -> str:
    difference, low, high = one["differences"][key]
    return f"{difference:+.3f}" + ("" if low is None else f" [{low:+.3f}, {high:+.3f}]")

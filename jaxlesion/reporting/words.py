"""Words of the report and the model card that depend on the kind of run."""

from jaxlesion.boosting.measures import MEASURES
from jaxlesion.core.config import TrainConfig
from jaxlesion.core.experts import RunConfig, StackedConfig, TabularConfig

NEVER = "nothing that is known only after a biopsy"


def words(config: RunConfig) -> dict[str, str]:
    """Return the sentences and names that differ between networks, trees and stacks, for the templates."""
    if isinstance(config, TrainConfig):
        return _network(config)
    return _trees(config) if isinstance(config, TabularConfig) else _stack(config)


def _network(config: TrainConfig) -> dict[str, str]:
    size = config.data.image_size
    return {
        "title": config.model.variant,
        "one": "network",
        "prepared": f"crops are resized to {size} px",
        "predictors": f"The pixels of one crop. Metadata are not used, and {NEVER}.",
        "made_of": f"Pixels, resized to {size} px and normalised; augmentation `{config.augment.recipe}` in training "
        "only.",
        "drawn": "drawn anew in every epoch",
        "built": "the last epoch is used, whatever the curves say",
        "prediction": "One forward pass of the fold's network",
        "explanation": "Grad-CAM in `report.html`: where evidence was found, not whether it was right.",
        "weight": f"; malignant rows weigh {config.pos_weight:.3g} times as much in the loss"
        if config.pos_weight != 1
        else "",
    }


def _trees(config: TabularConfig) -> dict[str, str]:
    measures = f", {len(MEASURES)} measures made of them" if config.features.derived else ""
    compared = (
        f", and how each compares with the patient's others ({', '.join(config.features.relative)})"
        if config.features.relative
        else ""
    )
    images = ", and the logits of runs on images" if config.features.runs else ""
    return {
        "title": "gradient-boosted trees on metadata",
        "one": "trees",
        "prepared": "numbers and categories are taken as they are",
        "predictors": f"Columns of the metadata{measures}{compared}{images}. No id, no hospital, and {NEVER}.",
        "made_of": f"Columns of the metadata{measures}{compared}{images}; missing cells stay missing.",
        "drawn": "drawn anew for each member of the bag",
        "built": "the number of trees was fixed beforehand",
        "prediction": "The mean of the bag's log odds, by the fold's trees",
        "explanation": "Permutation importance, partial dependence and SHAP's values in `report.html`: what the trees "
        "rest on, not what causes a tumour.",
        "weight": "",
    }


def _stack(config: StackedConfig) -> dict[str, str]:
    names = ", ".join(f"`{folder.name}`" for folder in config.runs)
    how = {
        "rank": "the mean of their ranks among out-of-fold predictions",
        "logistic": "a logistic regression on their logits, fitted on the other folds",
    }
    return {
        "title": f"stack of {len(config.runs)} runs",
        "one": "stack",
        "prepared": "each run of the stack reads its own part",
        "predictors": f"The predictions of the runs {names}; what they see stands in their own cards.",
        "made_of": f"The predictions of the runs {names}.",
        "drawn": "",
        "built": how[config.method],
        "prediction": f"The runs predict, and are combined by {how[config.method]}",
        "explanation": "None of the stack; of its runs in their own reports.",
        "weight": "",
    }

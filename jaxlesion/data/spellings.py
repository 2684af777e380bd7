"""The columns of published tables of skin lesions by our names, and which of their labels mean malignant."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from jaxlesion.core.config import Layout
from jaxlesion.core.errors import InputError
from jaxlesion.data.tables import shown

MALIGNANT = ("1", "1.0", "true", "malignant")
BENIGN = ("0", "0.0", "false", "benign")


@dataclass(frozen=True)
class Spelling:
    """Names of the columns of one kind of table.

    Args:
        name: for messages; empty for our own.
        isic_id: column of the ids.
        target: column of the labels, or several columns of which one is 1 (one-hot).
        patient_id: column of the patients, or of what comes nearest.
        malignant: labels, or one-hot columns, that mean malignant, in small letters; those of `MALIGNANT` always do.
        unknown: labels of lesions that are left out, and so are those without any.
        marks: further columns that such a table has.
    """

    name: str = ""
    isic_id: str = "isic_id"
    target: tuple[str, ...] = ("target",)
    patient_id: str | None = "patient_id"
    malignant: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()

    @property
    def columns(self) -> dict[str, str]:
        """Return our name by the table's, of the columns that are renamed."""
        names = {self.isic_id: "isic_id"}
        if len(self.target) == 1:
            names[self.target[0]] = "target"
        if self.patient_id is not None:
            names[self.patient_id] = "patient_id"
        return names


OURS = Spelling()
_ONE_HOT = ("MEL", "NV", "BCC", "BKL", "DF", "VASC")
# The first whose columns are all there. Tables without labels, such as those of test sets, come last.
PUBLISHED = (
    Spelling("ISIC 2020", "image_name", ("target",)),
    Spelling("ISIC 2019", "image", (*_ONE_HOT, "AK", "SCC"), None, ("mel", "bcc", "scc"), marks=("UNK",)),
    Spelling("ISIC 2018", "image", (*_ONE_HOT, "AKIEC"), None, ("mel", "bcc", "akiec")),
    Spelling("HAM10000", "image_id", ("dx",), "lesion_id", ("mel", "bcc", "akiec")),
    Spelling("PAD-UFES-20", "img_id", ("diagnostic",), "patient_id", ("mel", "bcc", "scc")),
    Spelling("ISIC archive", target=("diagnosis_1",), unknown=("indeterminate",)),
    Spelling("ISIC archive", target=("benign_malignant",), unknown=("indeterminate",)),
    Spelling("ISIC 2020", "image_name", ()),
    Spelling("ISIC 2018 or 2019", "image", (), "lesion_id", marks=("age_approx",)),
)


def recognise(names: Sequence[str], layout: Layout) -> Spelling:
    """Return the spelling of a table with these columns: that of `layout.columns`, ours, or a published one's."""
    if layout.columns is not None:
        given = _pairs(layout.columns)
        target = given.get("target", "target")
        return Spelling("", given.get("isic_id", "isic_id"), (target,), given.get("patient_id", "patient_id"))
    if OURS.isic_id in names and OURS.target[0] in names:
        return OURS
    for one in PUBLISHED:
        if {one.isic_id, *one.target, *one.marks} <= set(names):
            return one
    return OURS


def _pairs(text: str) -> dict[str, str]:
    """Parse `isic_id=image_name,target=label`.

    Raises:
        InputError: another form, or a name that is not ours.
    """
    given = {}
    for pair in text.split(","):
        ours, equals, theirs = (part.strip() for part in pair.partition("="))
        if not (equals and theirs) or ours not in ("isic_id", "patient_id", "target") or ours in given:
            raise InputError(
                f"--data.columns {text}: give pairs such as isic_id=image_name,target=benign_malignant, each of "
                "isic_id, patient_id and target at most once"
            )
        given[ours] = theirs
    return given


def positives(layout: Layout) -> tuple[str, ...]:
    """Return the labels that `layout.positive` names, in small letters."""
    return tuple(name.strip().casefold() for name in (layout.positive or "").split(",") if name.strip())


def one_hot_label(table: pd.DataFrame, columns: Iterable[str]) -> pd.Series:
    """Return the name of the first column that is 1 in each row; missing where none is."""
    found = pd.Series(pd.NA, index=table.index, dtype="string")
    for column in columns:
        found = found.mask(found.isna() & (pd.to_numeric(table[column], errors="coerce") == 1), column)
    return found


def targets(labels: pd.Series, spelling: Spelling, layout: Layout) -> tuple[pd.Series, int | None]:
    """Turn labels into 0 and 1.

    Args:
        labels: [n] numbers or words; case does not matter.
        spelling: of their table.
        layout: `positive` names the malignant labels instead.

    Returns:
        [n] Float64, missing where a lesion is to be left out; and the row of the first label that cannot be
        understood, None if all can.
    """
    if labels.dtype == float and labels.dropna().abs().lt(2**53).all() and (labels.dropna() % 1 == 0).all():
        labels = labels.astype("Int64")  # 1, and not 1.0, is what --data.positive names
    text = labels.astype("string").str.strip().str.casefold()
    named = positives(layout)
    malignant, benign = (named, ()) if named else ((*MALIGNANT, *spelling.malignant), BENIGN)
    any_other = bool(named or spelling.malignant)  # is benign
    target = pd.Series(pd.NA, index=labels.index, dtype="Float64")
    target[(text.notna() if any_other else text.isin(benign)).fillna(False)] = 0.0
    target[text.isin(malignant).fillna(False)] = 1.0
    left_out = text.isin(spelling.unknown) | (text.isna() & bool(spelling.name))
    target[left_out.fillna(False)] = pd.NA
    if not named:  # other spellings of numbers, such as 1.000
        number = pd.to_numeric(text, errors="coerce")
        target = target.mask((number == 1).fillna(False), 1.0).mask((number == 0).fillna(False), 0.0)
    bad = (target.isna() & ~left_out.fillna(False)).to_numpy(bool)
    return target, int(bad.argmax()) if bad.any() else None


def describe(spelling: Spelling, layout: Layout, columns: Mapping[str, object]) -> str:
    """Return a sentence on how a table was understood; empty for one in our own names."""
    if not spelling.name:
        return ""
    malignant = ", ".join(positives(layout) or spelling.malignant or ("malignant",))
    patient = spelling.patient_id if spelling.patient_id in columns else None
    return (
        f"a table of {spelling.name}: isic_id is {spelling.isic_id}, "
        f"target is {shown(malignant)} in {' '.join(spelling.target) or 'no column'}, "
        f"patient_id is {patient or 'not known'}"
    )

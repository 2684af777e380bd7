"""The paper's printed figures, as fractions; no other file repeats them.

*Neural Network-Based Classification of Skin Lesions*, COMP 379, Loyola University Chicago. Tables 1, 4 and 5 are in
percent there; "0.31 / 0.03 / 0.05" in table 3 are fractions in a table that is otherwise in percent. Precision and
recall imply the rows that were scored: about ten benign to one malignant in tables 1, 4 and 5, all rows in 2 and 3.
"""

from typing import NamedTuple


class PerClass(NamedTuple):
    """Precision, recall and F1 of one class at a threshold of 0.5."""

    precision: float
    recall: float
    f1: float


class Printed(NamedTuple):
    """A table of the paper: one line for each class."""

    benign: PerClass
    malignant: PerClass


TABLE1 = Printed(PerClass(0.93, 0.97, 0.95), PerClass(0.50, 0.30, 0.38))
TABLE2 = Printed(PerClass(1.0, 1.0, 1.0), PerClass(0.0, 0.0, 0.0))
TABLE3 = Printed(PerClass(1.0, 1.0, 1.0), PerClass(0.31, 0.03, 0.05))
TABLE4 = Printed(PerClass(0.93, 0.98, 0.95), PerClass(0.56, 0.20, 0.30))
TABLE5 = Printed(PerClass(0.93, 0.98, 0.95), PerClass(0.54, 0.21, 0.31))
TABLE9 = Printed(PerClass(1.0, 1.0, 1.0), PerClass(0.92, 0.14, 0.24))

# From the paper's text, which names no table: the macro means are those of table 1, up to rounding.
OVERALL = {"accuracy": 0.91, "macro_precision": 0.71, "macro_recall": 0.64, "macro_f1": 0.66}

# Table 7 by epochs. For 20, 50 and 100 epochs our source has only "all near .5".
TABLE7 = {1: {"ISIC_0015657": 0.0576, "ISIC_0015729": 0.0040, "ISIC_0015740": 0.0977}}
TABLE7_LESIONS = ("ISIC_0015657", "ISIC_0015729", "ISIC_0015740")
TABLE7_OTHERS = "near 0.5"

TABLE8 = {5: 0.2418, 10: 0.2222, 15: 0.1839, 20: 0.1628}  # malignant F1 by number of neighbours

"""Ids as people type them: trimmed, and compared by how they read.

`IP_3` and `IP_3 ` are one patient. `IP_3`, `ip_3` and `IP_3.0` are one patient too, as a rule: an export has changed
their case, or a spreadsheet has taken them for numbers. Nothing here decides that; callers refuse such pairs by name.
"""

import re
import unicodedata
from collections.abc import Iterable

import pandas as pd

# Whitespace of every kind, and characters without width: soft hyphen, zero-width spaces, marks of direction and order.
_NO_WIDTH = (
    r"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff"
)
_ENDS = re.compile(rf"^[\s{_NO_WIDTH}]+|[\s{_NO_WIDTH}]+$")
_INVISIBLE, _SPACES = re.compile(rf"[{_NO_WIDTH}]+"), re.compile(r"\s+")
_AS_NUMBER = re.compile(r"[.,]0+$")  # what a spreadsheet adds to whole numbers
IMAGE_SUFFIX = re.compile(r"\.(jpe?g|png|webp|bmp|tiff?)$", re.IGNORECASE)

# Greek and Cyrillic letters that look like Latin ones, and dashes (Unicode Technical Standard 39, confusables). Then
# those of Latin letters and digits: O and 0, I, l and 1.
_LOOKS_LIKE = str.maketrans(
    "АВЕЅЗІЈКМНОРСТУХԌԚԜаеѕіјорсухһԁԛԝ" "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧοανρυ" "ıɡǀ∣⏐" "‐‑‒–—―−﹘⁃",
    "ABES3IJKMHOPCTYXGQWaesijopcyxhdqw" "ABEZHIKMNOPTYXoavpu" "iglll" "---------",
)  # fmt: skip
_DIGITS_LIKE = str.maketrans("OoIl|", "00111")
_ISIC = re.compile(r"ISIC_[0-9]{7}")  # two of this form never read alike


def trim(text: str) -> str:
    """Remove whitespace and characters without width from both ends."""
    return _ENDS.sub("", text)


def trim_cells(cells: pd.Series) -> pd.Series:
    """Trim every text of a column; what is then empty is missing. Returns the column itself where nothing changes."""
    changed = {
        cell: trimmed or pd.NA
        for cell in cells.dropna().unique()
        if isinstance(cell, str) and (trimmed := trim(cell)) != cell
    }
    return cells.where(~cells.isin(list(changed)), cells.map(changed)) if changed else cells


def without_suffix(name: str) -> str:
    """Return the name of an image file without `.jpg` and the like; another id as it is."""
    return IMAGE_SUFFIX.sub("", name) if "." in name else name


def readings(text: str) -> tuple[str, str]:
    """Return what an id is compared by: its letters without case, and its shape. Ids that share either read alike.

    Both ignore invisible characters, a `.0` at the end and zeros before a whole number.
    """
    shape = text
    if not text.isascii():
        text = unicodedata.normalize("NFKC", _SPACES.sub(" ", _INVISIBLE.sub("", text))).translate(_LOOKS_LIKE)
        shape = unicodedata.normalize("NFKD", text)
    text, shape = (_AS_NUMBER.sub("", trim(form)) for form in (text, shape))
    if text.isdecimal():
        text = shape = text.lstrip("0") or "0"
    return text.casefold(), shape.translate(_DIGITS_LIKE)


def alike(ids: Iterable[str], others: Iterable[str] | None = None) -> tuple[str, str] | None:
    """Find two different ids that read alike: among `ids`, or one of `ids` and one of `others`; None if there are none.

    Args:
        ids: texts, in any number.
        others: texts to compare with; None to compare `ids` with each other.
    """
    mine = dict.fromkeys(ids)
    if others is None and all(map(_ISIC.fullmatch, mine)):
        return None
    seen: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for one in dict.fromkeys(others) if others is not None else ():
        for known, reading in zip(seen, readings(one), strict=True):
            known.setdefault(reading, one)
    for one in mine:
        for known, reading in zip(seen, readings(one), strict=True):
            other = known.get(reading) if others is not None else known.setdefault(reading, one)
            if other is not None and other != one:
                return other, one
    return None

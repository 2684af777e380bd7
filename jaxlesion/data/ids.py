"""What may stand as a lesion's id: it becomes a file name, an HDF5 key and a cell of a spreadsheet."""

import re

ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def valid_id(text: object) -> bool:
    """Whether `text` is 1 to 64 of `A-Z a-z 0-9 _ . -`, the first one a letter or digit.

    So no id leaves a folder (`../x`), and none is a formula to a spreadsheet (`=`, `+`, `-`, `@`).
    """
    return isinstance(text, str) and ID_PATTERN.fullmatch(text) is not None

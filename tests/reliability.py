"""Write the tables of docs/reliability.md from the tests' markers: `python tests/reliability.py --write`.

A test that does harm says so with `@pytest.mark.fault(table, fault, tried=..., outcome=...)`; each marker is a row.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).resolve().parent
DOCUMENT = TESTS.parent / "docs" / "reliability.md"
TABLES = ("runs", "input")
HEADER = "| fault | how many tried | outcome | test |\n|---|---|---|---|\n"
WRITTEN = "<!-- {}: written by `python tests/reliability.py --write` from the markers `fault` of the tests -->\n"
END = "<!-- end -->"


class Fault(NamedTuple):
    """A row: what was done, how often, what happened, and by which test."""

    table: str
    fault: str
    tried: str
    outcome: str
    test: str


def read_faults(path: Path) -> Iterator[Fault]:
    """Yield the markers of a file of tests, which is not imported."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            name, marked = node.name, node.decorator_list
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):  # test_x = mark(...)(make(...))
            name, marked = node.targets[0].id, [node.value]
        else:
            continue
        for call in (found for decorator in marked for found in ast.walk(decorator) if isinstance(found, ast.Call)):
            if ast.unparse(call.func) == "pytest.mark.fault":
                given = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
                table, fault = map(ast.literal_eval, call.args)
                yield Fault(table, fault, given["tried"], given["outcome"], f"{path.relative_to(TESTS)}::{name}")


def rendered(text: str) -> str:
    """Return the document with its tables written anew."""
    faults = [fault for path in sorted(TESTS.rglob("test_*.py")) for fault in read_faults(path)]
    if {fault.table for fault in faults} != {*TABLES}:
        raise ValueError(f"the first argument of a marker is one of {TABLES}")
    for table in TABLES:
        begin = WRITTEN.format(table)
        rows = "".join(f"| {f.fault} | {f.tried} | {f.outcome} | `{f.test}` |\n" for f in faults if f.table == table)
        before, found, rest = text.partition(begin)
        _, _, after = rest.partition(END)
        if not (found and after):
            raise ValueError(f"{DOCUMENT} has no place for the table {table}")
        text = before + begin + HEADER + rows + END + after
    return text


if __name__ == "__main__" and sys.argv[1:] == ["--write"]:
    DOCUMENT.write_text(rendered(DOCUMENT.read_text()))

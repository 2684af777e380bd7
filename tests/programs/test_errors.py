"""Every mistake ends with one line and exit code 2, without half-written files; docs/errors.md lists these cases.

python tests/programs/test_errors.py --write
"""

import dataclasses
import re
import sys
from pathlib import Path
from typing import get_type_hints

import pytest
from errors import experts, exports, images, options, predictions, runs, serving, tables
from errors.case import RUN_STAYS, contents, workplace

from jaxlesion.core.fields import flag

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "errors.md"
INTRODUCTION = """# Errors and what to do

A mistake in what is given ends a command with exit code 2 and one line on stderr that begins with `error: `. Nothing
has been written then, unless the last column says so. `FOLDER` stands for the folder that the files of these examples
lie in, `...` for a reason that another library gives.

This file is made by `python tests/programs/test_errors.py --write` from the mistakes that the tests make.
"""

CASES_OF = {}
for module in (tables, images, options, runs, predictions, experts, exports, serving):
    CASES_OF |= module.GROUPS
TITLES = (
    "The table of lesions",
    "Folds",
    "Images",
    "Weights",
    "Options",
    "Runs",
    "Evaluation",
    "Prediction",
    "Nearest neighbours",
    "Trees on metadata",
    "Stacks",
    "Export",
    "Duplicates",
    "Report",
    "The page",
)  # in the order of the document
GROUPS = {title: CASES_OF[title] for title in TITLES}
CASES = [case for cases in CASES_OF.values() for case in cases]


@pytest.mark.fault(
    "input",
    "every mistake in [errors.md](errors.md)",
    tried="each in turn",
    outcome="exit 2, one line, nothing half-written",
)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_one_line_exit_code_2_and_nothing_half_written(case, tmp_path, capfd):
    with workplace(case.make, tmp_path):
        before = contents()
        with pytest.raises(SystemExit) as left:
            case.program(list(case.argv))
        after, here = contents(), str(Path.cwd())
    assert left.value.code == 2
    printed = capfd.readouterr().err.replace(here, "FOLDER")
    if case.leaves:  # notes on the training came before
        printed = printed.splitlines(keepends=True)[-1]
    assert re.fullmatch(re.escape(f"error: {case.message}\n").replace(re.escape("..."), ".*"), printed)
    assert before.items() <= after.items()
    assert (after != before) == case.leaves


def options_of(kind: type, prefix: str = "") -> set[str]:
    """Return all options of a configuration."""
    found = set()
    for name, hint in get_type_hints(kind).items():
        nested = dataclasses.is_dataclass(hint)
        found |= options_of(hint, f"{prefix}{name}.") if nested else {flag(prefix + name), flag(f"{prefix}no-{name}")}
        found |= {flag(prefix + name)}
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_a_message_names_only_options_that_its_own_program_has(case):
    module = sys.modules[case.program.__module__]
    (config,) = {
        kind for name, kind in vars(module).items() if name == f"{module.__name__.split('.')[-1].title()}Config"
    }
    own = re.sub(r"(python -m jaxlesion\.\w+|\btrain) --[a-z-]+", "", case.message)
    own = re.sub(r"^Unrecognized options: [^;]*", "", own)  # the user's
    assert set(re.findall(r"--[a-z][\w.-]*\w", own)) <= options_of(config)


def rendered() -> str:
    """Return docs/errors.md as text."""
    parts = [INTRODUCTION]
    for title, cases in GROUPS.items():
        rows = ["| what | message | what to do |", "|---|---|---|"]
        rows += [f"| {c.what} | `{c.message}` | {c.remedy}{RUN_STAYS * c.leaves} |" for c in cases]
        parts.append("\n".join([f"## {title}", *rows, ""]))
    return "\n".join(parts)


def test_the_document_is_what_the_cases_say():
    assert set(TITLES) == set(CASES_OF)
    assert DOCUMENT.read_text() == rendered(), "rewrite it: python tests/programs/test_errors.py --write"


if __name__ == "__main__" and sys.argv[1:] == ["--write"]:
    DOCUMENT.write_text(rendered())

"""Mistakes in starting the page."""

from errors.case import Case, nothing
from errors.experts import trees

from jaxlesion import app

FREE = ("--port", "0")


GROUPS = {
    "The page": [
        Case(
            *("A port that there is not", nothing, app.main, ("--port", "70000")),
            "--port must be 0 to 65535, not 70000",
            "Leave `--port` out, or give 0 for any that is free.",
        ),
        Case(
            *("A host that is not this machine", nothing, app.main, ("--host", "192.0.2.1", *FREE)),
            "--host 192.0.2.1 --port 0: cannot be used (...); give another --port or --host",
            "Leave `--host` out: the page is then for this machine alone. A port in use is refused alike.",
        ),
        Case(
            *("A run of trees", trees, app.main, ("--run", "trees", *FREE)),
            "trees is a tabular run, without a network: the page is for networks",
            "Give a run of a network; `predict` takes the others.",
        ),
        Case(
            *("No table of rows to pick", nothing, app.main, ("--data-dir", "data", *FREE)),
            "data has no test-metadata.csv: give the folder that holds it, or --data.table data/train-metadata.csv to "
            "predict its rows",
            "Give `--split train` for the rows of `train-metadata.csv`.",
        ),
    ]
}

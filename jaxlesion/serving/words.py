"""Results as text: cards of a page, rows of a CSV file, and JSON."""

import base64
import csv
import html
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxlesion.evaluation.metrics import CLASSES
from jaxlesion.serving.examine import Examiner, Result
from jaxlesion.serving.reference import data_uri

WARNING = "For research. Not a medical device."
COLUMNS = (
    *("image", "probability", "calibrated", "lowest_view", "highest_view", "above_benign", "above_malignant"),
    *("unlike_training", "nearest", "label", "notes", "error"),
)
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would compute
LOWEST, HIGHEST = math.log(0.0005), math.log(0.9995 / 0.0005)  # log odds at the ends of the scale of views
TICKS = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99)


def notes_on(examiner: Examiner, result: Result) -> list[str]:
    """Return what is to be known about a result, and what was not checked."""
    notes = list(result.notes)
    if result.place is None and examiner.held_out.missing is not None:
        notes.append(examiner.held_out.missing)
    if examiner.without is not None:
        notes.append(f"Not calibrated: {examiner.without}.")
    if result.surroundings is None:
        near = examiner.neighbourhood
        waiting = None if near is None else near.state
        notes.append(waiting or "Not checked whether it is unlike the training crops: none are at hand.")
    elif result.surroundings.unlike:
        notes.append(
            "Unlike the training crops, in colour, light or sharpness: farther from them than "
            f"{percent(1 - result.surroundings.farther)} of held-out crops are. The probability may mean nothing."
        )
    return notes


def row_of(examiner: Examiner, result: Result) -> dict[str, Any]:
    """Return a result by `COLUMNS`; None where something is not known."""
    if result.error is not None:
        return dict.fromkeys(COLUMNS) | {"image": result.name, "error": result.error}
    place, around = result.place, result.surroundings
    return {
        "image": result.name,
        "probability": result.probability,
        "calibrated": result.calibrated,
        "lowest_view": min(result.views),
        "highest_view": max(result.views),
        "above_benign": None if place is None else place.benign,
        "above_malignant": None if place is None else place.malignant,
        "unlike_training": None if around is None else around.unlike,
        "nearest": [] if around is None else [[n.isic_id, CLASSES[n.target]] for n in around.neighbours],
        "label": None if result.label is None else CLASSES[result.label],
        "notes": notes_on(examiner, result),
        "error": None,
    }


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows of `row_of` as CSV."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows([_cell(row[name]) for name in COLUMNS] for row in rows)
    return out.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return " ".join(item if isinstance(item, str) else f"{item[0]}:{item[1]}" for item in value)
    text = value if isinstance(value, str) else repr(value)
    return f"'{text}" if text.startswith(FORMULA) and isinstance(value, str) else text


def download(rows: Sequence[dict[str, Any]]) -> str:
    """Return a link that saves the rows as CSV; its content is in the page, and in no file of the server."""
    content = base64.b64encode(as_csv(rows).encode()).decode()
    many = f"{len(rows):,} result" + "s" * (len(rows) != 1)
    return (
        f'<a class="save" download="jaxlesion.csv" href="data:text/csv;charset=utf-8;base64,{content}">'
        f"Save {many} as CSV</a>"
    )


def percent(share: float) -> str:
    """Return a share as text, with digits that matter: 0.03 %, 2.4 %, 57 %, 99.4 %."""
    if share in (0, 1):
        return f"{share:.0%}".replace("%", " %")
    if not 0.0001 <= share <= 0.9999:
        return "< 0.01 %" if share < 0.5 else "> 99.99 %"
    edge = min(share, 1 - share)
    return f"{100 * share:.{2 if edge < 0.001 else 1 if edge < 0.1 else 0}f} %"


def safe(text: str) -> str:
    """Return text for a place in HTML, without what a template of the page could compute."""
    printable = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return html.escape(printable).replace("$", "&#36;").replace("{", "&#123;").replace("`", "&#96;")


def card(examiner: Examiner, result: Result) -> str:
    """Return a result as HTML."""
    if result.error is not None:
        return f'<article class="lesion refused"><p role="alert">{safe(result.error)}</p></article>'
    known = "" if result.label is None else f'<span class="label">in the table: {CLASSES[result.label]}</span>'
    headline = result.probability if result.calibrated is None else result.calibrated
    kind = "uncorrected" if result.calibrated is None else f"calibrated; uncorrected {result.probability:.4f}"
    pictures = [("as the network sees it", result.pixels), ("Grad-CAM: evidence for malignancy", overlay(result))]
    figures = "".join(
        f'<figure><img src="{data_uri(image)}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'
        for caption, image in pictures
    )
    unlike = ""
    if result.surroundings is not None and result.surroundings.unlike:
        unlike = '<span class="unlike">unlike the training crops</span>'
    notes = "".join(f"<li>{safe(note)}</li>" for note in notes_on(examiner, result))
    return (
        f'<article class="lesion"><header><h2>{safe(result.name)}</h2>{known}{unlike}</header>'
        f'<div class="pictures">{figures}</div><div class="numbers">'
        f'<p class="probability"><strong>{percent(headline)}</strong> probability of malignancy<br>'
        f"<small>{kind}</small></p>{_views(result, headline)}{_place(result)}</div>{_neighbours(result)}"
        f'<ul class="notes">{notes}</ul></article>'
    )


def overlay(result: Result) -> np.ndarray:
    """Return the image under its Grad-CAM, uint8 [size, size, 3]."""
    from matplotlib import colormaps

    colour = colormaps["inferno"](result.heat)[..., :3] * 255
    opacity = (0.15 + 0.45 * result.heat)[..., None]
    return (result.pixels * (1 - opacity) + colour * opacity).round().astype(np.uint8)


def _at(probability: float) -> float:
    """Return the place of a probability on a scale of log odds, 0 to 100."""
    clipped = min(max(probability, 1e-9), 1 - 1e-9)
    odds = math.log(clipped / (1 - clipped))
    return 100 * min(max((odds - LOWEST) / (HIGHEST - LOWEST), 0), 1)


def _views(result: Result, headline: float) -> str:
    """Draw the eight views and the probability on a scale of log odds."""
    marks = "".join(f'<i style="left:{_at(view):.1f}%"></i>' for view in result.views)
    ticks = "".join(f'<span style="left:{_at(tick):.1f}%">{100 * tick:g} %</span>' for tick in TICKS)
    low, high = percent(min(result.views)), percent(max(result.views))
    return (
        f'<h3>Turned and mirrored: {low} to {high}</h3><div class="scale" role="img" '
        f'aria-label="eight views, from {low} to {high}">{marks}<b style="left:{_at(headline):.1f}%"></b></div>'
        f'<div class="ticks" aria-hidden="true">{ticks}</div>'
    )


def _place(result: Result) -> str:
    """Draw the shares of held-out lesions with a lower score."""
    if result.place is None:
        return ""
    bars = "".join(
        f'<dt>{name}</dt><dd><span class="bar {name}"><i style="width:{100 * share:.1f}%"></i></span>'
        f"<span>{percent(share)}</span></dd>"
        for name, share in zip(CLASSES, result.place[:2], strict=True)
    )
    return f'<h3>Above these shares of {result.place.lesions:,} held-out lesions</h3><dl class="place">{bars}</dl>'


def _neighbours(result: Result) -> str:
    if result.surroundings is None:
        return ""
    shown = "".join(
        f'<figure class="{CLASSES[n.target]}"><img src="{n.picture}" alt="{safe(n.isic_id)}" title="{safe(n.isic_id)}">'
        f"<figcaption>{CLASSES[n.target]}</figcaption></figure>"
        for n in result.surroundings.neighbours
    )
    title = f"Nearest of {result.surroundings.compared:,} training lesions"
    return f'<section class="neighbours"><h3>{title}</h3><div>{shown}</div></section>'

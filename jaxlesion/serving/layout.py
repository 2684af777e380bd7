"""The page, in Gradio: what is on it, and what happens when an image is dropped."""

import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from jaxlesion.core.errors import InputError
from jaxlesion.data.dataset import Dataset
from jaxlesion.data.hdf5 import MAX_BYTES
from jaxlesion.serving.examine import Examiner, Result
from jaxlesion.serving.words import WARNING, card, download, row_of, safe

if TYPE_CHECKING:
    from gradio import Blocks

FILES = 50  # images of one drop
LISTED = 500  # rows of a table that the list offers; any other is typed
WAITING = 32  # requests that wait; further ones are told that the page is busy
KEPT_SECONDS = (30, 120)  # how often, and from which age on, uploaded files are deleted
REDRAW_SECONDS = 2.0
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:|//")
STYLE = Path(__file__).with_name("page.css")
SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONO = ("ui-monospace", "Menlo", "Consolas", "monospace")


def build(gradio: ModuleType, examiner: Examiner, table: Dataset | None) -> "Blocks":
    """Build the page.

    Args:
        gradio: the module, imported.
        examiner: of the images.
        table: whose rows can be picked; None for none.
    """
    with gradio.Blocks(
        title="jaxlesion", analytics_enabled=False, delete_cache=KEPT_SECONDS, fill_width=True
    ) as blocks:
        gradio.HTML(f'<p role="note">{WARNING}</p>', elem_id="warning", js_on_load=None)
        gradio.HTML(_heading(examiner), elem_id="heading", js_on_load=None)
        files = _upload(gradio)
        picked = None
        if table is not None:
            ids = table.lesions["isic_id"].astype(str)
            picked = gradio.Dropdown(
                ids.head(LISTED).tolist(),
                value=None,
                label=f"Or pick a row of the table ({len(ids):,} lesions)",
                allow_custom_value=True,
                elem_id="row",
            )
        status = gradio.HTML(elem_id="status", js_on_load=None)
        cards = gradio.HTML(elem_id="cards", js_on_load=None)

        def dropped(given: Sequence[tuple[str, str]] | None) -> Iterator[tuple[Any, str, Any]]:
            for said, drawn in examined(examiner, given or ()):
                yield gradio.skip(), said, gradio.skip() if drawn is None else drawn
            yield None, said, gradio.skip()

        quiet = {"show_progress": "hidden", "api_visibility": "undocumented", "concurrency_id": "examine"}
        files.upload(dropped, files, [files, status, cards], api_name="examine", **quiet)
        if picked is not None:
            picked.input(
                lambda isic_id: of_row(examiner, table, isic_id), picked, [status, cards], api_name="row", **quiet
            )
    blocks.queue(max_size=WAITING, default_concurrency_limit=1)
    return blocks


def examined(examiner: Examiner, given: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str | None]]:
    """Examine uploaded files one after the other; yield a line on the state, and the cards where they are redrawn.

    Args:
        examiner: of the images.
        given: name and path of each file.
    """
    if len(given) > FILES:
        yield _line(f"{len(given)} images at once are too many: drop at most {FILES}"), ""
        return
    rows, drawn, last = [], [], 0.0
    for done, (name, path) in enumerate(given):
        now = time.monotonic()
        shown = "".join(drawn) if drawn and now - last > REDRAW_SECONDS else None
        last = last if shown is None else now
        yield f'<p role="status">examining {done + 1} of {len(given)}: {safe(name)}</p>', shown
        result = _of_file(examiner, name, path)
        rows.append(row_of(examiner, result))
        drawn.append(card(examiner, result))
    yield download(rows) if rows else "", "".join(drawn)


def of_row(examiner: Examiner, table: Dataset, isic_id: str | None) -> tuple[str, str]:
    """Examine the image of a row of a table; return the line on the state, and the card."""
    isic_id = str(isic_id or "").strip()
    rows = table.lesions[table.lesions["isic_id"] == isic_id]
    if rows.empty:
        return _line(f"the table has no lesion {isic_id}: pick one, or type its isic_id"), ""
    target = rows["target"].iloc[0] if "target" in rows else None
    try:
        data = table.images.read(isic_id)
    except InputError as e:
        return _line(str(e)), ""
    result = examiner.examine(isic_id, data, None if target is None else int(target))
    return download([row_of(examiner, result)]), card(examiner, result)


def theme(gradio: ModuleType) -> Any:
    """Return colours and shapes, and fonts that every machine has."""
    return gradio.themes.Base(primary_hue="blue", neutral_hue="slate", font=SANS, font_mono=MONO)


def _of_file(examiner: Examiner, name: str, path: str) -> Result:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as e:
        return Result(name, error=f"image {name} cannot be read ({e.strerror}): drop it again")
    return examiner.examine(name, data)


def _line(text: str) -> str:
    return f'<p role="alert">{safe(text)}</p>'


def _heading(examiner: Examiner) -> str:
    return (
        "<h1>jaxlesion</h1><p>A probability of malignancy for crops of skin lesions. Network: "
        f"{safe(examiner.title)}. Images stay on this machine, and are deleted within minutes.</p>"
    )


def _upload(gradio: ModuleType) -> Any:
    """Return a field for files that gives names and paths of uploaded files alone, and downloads nothing.

    A mounted page takes any path that a request names (Gradio 6.31): here only files below `GRADIO_TEMP_DIR` are read.
    Methods of the one field are replaced: of a subclass, Gradio would write an interface beside this file.
    """
    field = gradio.File(file_count="multiple", label="Drop crops of lesions here", height=150, elem_id="drop")
    move, folder = field.async_move_resource_to_block_cache, os.path.realpath(os.environ["GRADIO_TEMP_DIR"])

    def check(path: object) -> str:
        if ADDRESS.match(str(path)) or not os.path.realpath(str(path)).startswith(folder + os.sep):
            raise gradio.Error("this is no uploaded file: drop it on the page", print_exception=False)
        return str(path)

    async def move_uploaded_alone(url_or_file_path: str | Path | None) -> str | None:
        return await move(check(url_or_file_path))

    def names_and_paths(payload: Any) -> list[tuple[str, str]]:
        return [(file.orig_name or Path(file.path).name, check(file.path)) for file in payload or ()]

    field.async_move_resource_to_block_cache = move_uploaded_alone
    field.preprocess = names_and_paths
    field.example_payload = field.example_value = list  # Gradio's own are addresses elsewhere
    return field

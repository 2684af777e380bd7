"""Draw the folders of the package and the imports between them, read from the source.

    python -m experiments.pictures

makes the picture with the others. A folder stands above all that it imports, and an arrow that follows from others is
left out. Takes a second.
"""

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import jaxlesion

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PACKAGE = Path(jaxlesion.__file__).parent
PROGRAMS = "programs"
WIDTH, HEIGHT, STEP = 1.55, 0.62, 1.25  # of a box, and between the rows


def imports() -> dict[str, set[str]]:
    """Return the folders that each folder imports from, those of imports inside functions included."""
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        here = folder_of(path.relative_to(PACKAGE).parts)
        names = {
            node.module
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("jaxlesion.")
        }
        used = {name.split(".")[1] for name in names}
        found.setdefault(here, set()).update(one for one in used if (PACKAGE / one).is_dir() and one != here)
    return found


def folder_of(parts: tuple[str, ...]) -> str:
    """Return the folder of a module; that of the package itself has the programs."""
    return parts[0] if len(parts) > 1 else PROGRAMS


def reduced(uses: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the arrows that do not follow from others."""
    through = {name: set().union(*(below(uses, one) for one in to)) for name, to in uses.items()}
    return {name: to - through[name] for name, to in uses.items()}


def below(uses: dict[str, set[str]], name: str) -> set[str]:
    """Return all folders that a folder imports, directly or through others."""
    return set().union(*({one} | below(uses, one) for one in uses[name])) if uses[name] else set()


def height(uses: dict[str, set[str]], name: str) -> int:
    """Return the number of folders on the longest way down."""
    return 1 + max((height(uses, one) for one in uses[name]), default=-1)


def figure() -> "Figure":
    """Draw the folders as boxes with their number of modules."""
    from matplotlib import rcParams
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

    uses = imports()
    rows: dict[int, list[str]] = {}
    for name in sorted(uses):
        rows.setdefault(height(uses, name), []).append(name)
    widest = max(map(len, rows.values()))
    place = {
        name: ((i + 0.5) * widest * 2 / len(row), STEP * level)
        for level, row in rows.items()
        for i, name in enumerate(row)
    }
    drawing = Figure(figsize=(9, 0.85 * len(rows) + 0.4), layout="constrained")
    axis = drawing.add_subplot()
    axis.set(xlim=(0, widest * 2), ylim=(-0.6, STEP * max(rows) + 0.6))
    axis.set_axis_off()
    for name, to in reduced(uses).items():
        for other in sorted(to):
            (x, y), (u, v) = place[name], place[other]
            bend = 0.3 if x == u and y - v > STEP else 0  # around the box between the two
            arrow = {"arrowstyle": "-|>", "color": "#7f8ea3", "linewidth": 0.9, "shrinkA": 0, "shrinkB": 1}
            arrow["connectionstyle"] = f"arc3,rad={bend}"
            axis.annotate("", (u, v + HEIGHT / 2), (x, y - HEIGHT / 2), arrowprops=arrow, zorder=0)
    for name, (x, y) in place.items():
        corner, size = (x - WIDTH / 2, y - HEIGHT / 2), (WIDTH, HEIGHT)
        box = FancyBboxPatch(corner, *size, boxstyle="round,pad=0.04")
        box.set(facecolor=rcParams["figure.facecolor"], edgecolor="#4a86c5")
        axis.add_patch(box)
        modules = len([*PACKAGE.glob("*.py")] if name == PROGRAMS else [*(PACKAGE / name).glob("*.py")])
        axis.text(x, y + 0.1, name, ha="center", va="center", fontweight="bold", fontsize="small")
        axis.text(x, y - 0.16, f"{modules} modules", ha="center", va="center", fontsize="x-small")
    return drawing

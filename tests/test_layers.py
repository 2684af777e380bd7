"""Imports point down only, heavy packages load on use, and no reader can execute its input."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "jaxlesion"

# The folders that each folder may import from; "" is the package's own folder, with the programs.
BELOW = {
    "core": "",
    "data": "core",
    "evaluation": "core data",
    "runs": "core data evaluation",
    "runtime": "core",
    "model": "core",
    "learning": "core runtime model",
    "boosting": "core data evaluation runs",
    "inference": "core data evaluation runs runtime model learning boosting",
    "reporting": "core data evaluation runs runtime model learning boosting inference",
    "exporting": "core data evaluation runs runtime model learning inference",
    "serving": "core data evaluation runs runtime model learning inference reporting",
    "training": "core data evaluation runs runtime model learning",
    "ui": "core data evaluation runs",
    "": "core data evaluation runs runtime model learning boosting inference training reporting exporting serving ui",
}
BATCH = "data.batch"  # the only module of `data` that `learning` may import

JAX = {"jax", "jaxlib", "flax", "optax", "orbax"}
HOST = {"tensorflow", "tensorflow_datasets", "pandas", "sklearn", "cv2", "albumentations"}
FORBIDDEN = dict.fromkeys(("core", "data", "evaluation", "runs", "boosting"), JAX) | dict.fromkeys(
    ("model", "learning"), HOST
)
LATE = {"tensorflow", "tensorflow_datasets", "sklearn", "cv2", "albumentations", "matplotlib", "lightgbm"}
LATE |= {"onnx", "onnxruntime", "openvino", "tensorboardX", "gradio", "fastapi", "starlette", "uvicorn"}

# Calls that may execute their input. numpy reads no pickles by default.
UNSAFE = re.compile(
    r"pickle(?!\s*=\s*False)|\b(joblib|dill|marshal|shelve)\b|torch\.load\(|yaml\.(\w+_)?load(_all)?\b"
    r"|(?<![\w.])(eval|exec|__import__)\(|\bpd\.eval\(|\bos\.(system|popen)\b|shell\s*=\s*True",
    re.IGNORECASE,
)
SOURCES = sorted([*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "experiments").rglob("*.py")])


def modules() -> dict[str, ast.Module]:
    """Return the syntax tree of every module, by its name inside the package."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return {".".join(p.relative_to(PACKAGE).with_suffix("").parts): ast.parse(p.read_text()) for p in paths}


TREES = modules()


def imported(nodes: Iterable[ast.AST]) -> set[str]:
    """Return the full names of all imports; `from a import b` gives a.b, whether or not b is a module."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def run_ever(tree: ast.AST, leave_out: tuple[type, ...] = ()) -> Iterator[ast.AST]:
    """Yield all nodes, except those for type checkers only and those inside the types in `leave_out`."""
    for node in ast.iter_child_nodes(tree):
        types_only = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if not types_only and not isinstance(node, leave_out):
            yield node
            yield from run_ever(node, leave_out)


def run_at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that run on import: none inside functions."""
    return run_ever(tree, (ast.FunctionDef, ast.AsyncFunctionDef))


def within(name: str) -> str | None:
    """Return the package's module that an imported name refers to; None for other packages."""
    parts = name.split(".")
    if parts[0] != PACKAGE.name:
        return None
    while parts:
        for inner in (".".join(parts[1:]), ".".join([*parts[1:], "__init__"])):
            if inner in TREES:
                return inner
        parts.pop()
    raise AssertionError(f"{name} is no module of the package")


def outside(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


# Modules whose imports are still to be mended.
TO_MEND: dict[str, set[str]] = {}

USES = {name: {inner for i in imported(run_ever(tree)) if (inner := within(i))} for name, tree in TREES.items()}


def reached(name: str) -> set[str]:
    """Return the module and all modules that it imports, directly or indirectly."""
    found, todo = set(), {name}
    while todo:
        found |= todo
        todo = set().union(*(USES[n] for n in todo)) - found
    return found


def folder(name: str) -> str:
    """Return the folder of a module, which is its layer."""
    return name.rpartition(".")[0]


def test_every_folder_is_a_layer():
    assert {folder(name) for name in TREES} == set(BELOW)


@pytest.mark.parametrize("name", TREES)
def test_imports_point_down(name):
    here, allowed = folder(name), BELOW[folder(name)].split()
    up = {other for other in USES[name] if folder(other) not in (here, *allowed)} - {"_version"}
    up -= {BATCH, "data.__init__"} if here == "learning" else set()
    assert not up - TO_MEND.get(name, set()), f"{name} may import {', '.join(allowed) or 'nothing'}"


@pytest.mark.parametrize("name", [name for name in TREES if not folder(name) and not name.startswith("_")])
def test_programs_import_no_programs(name):
    assert not {other for other in USES[name] if not folder(other)} - {"_version"} - TO_MEND.get(name, set())


@pytest.mark.parametrize("here", BELOW)
def test_no_folder_has_a_cycle(here):
    inside = {name: {o for o in USES[name] if folder(o) == here} for name in TREES if folder(name) == here}
    while leaves := {name for name, uses in inside.items() if not uses & set(inside)}:
        inside = {name: uses for name, uses in inside.items() if name not in leaves}
    assert not inside or TO_MEND.get(here)


@pytest.mark.parametrize("name", TREES)
def test_no_forbidden_package_is_reached(name):
    if name in TO_MEND:
        return
    for inner in reached(name):
        assert not outside(imported(run_ever(TREES[inner]))) & FORBIDDEN.get(folder(name), set()), f"{name}: {inner}"


@pytest.mark.parametrize(
    "name", sorted(set(TREES) - {"data.isic2024"})
)  # a TFDS builder, itself imported only when used
def test_heavy_packages_are_imported_in_functions_only(name):
    assert not outside(imported(run_at_import(TREES[name]))) & LATE


def test_importing_the_package_is_light():
    code = "import sys, jaxlesion; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "jaxlesion" in loaded
    assert not set(loaded) & (JAX | HOST | LATE)


def test_the_rules_see_what_they_are_to_see():
    tree = ast.parse(
        "if TYPE_CHECKING:\n import h5py\ndef f():\n import sklearn.metrics\n from jaxlesion.data.folds import assign"
    )
    assert imported(run_at_import(tree)) == set()
    assert imported(run_ever(tree)) == {"sklearn.metrics", "jaxlesion.data.folds.assign"}
    assert within("jaxlesion.data.folds.assign") == "data.folds"
    assert within("jaxlesion.data") == "data.__init__"
    assert within("jax") is None
    assert "core.errors" in reached("train")
    for bad in (
        *("import pickle", "import cPickle", "import cloudpickle", "pd.read_pickle(f)", "pickle.load(f)"),
        *("np.load(f, allow_pickle=True)", "np.load(f, allow_pickle=x)", "joblib.load(f)", "y = eval(x)", "exec(x)"),
        *("yaml.load(f)", "yaml.unsafe_load(f)", "torch.load(f)", "pd.eval(x)", "marshal.loads(x)", "os.system(x)"),
        *("run(x, shell=True)", "__import__(x)"),
    ):
        assert UNSAFE.search(bad), bad
    for good in ("model.eval()", "np.load(f, allow_pickle=False)", "np.load(f)", "jax.eval_shape(f)", "retrieval(x)"):
        assert not UNSAFE.search(good), good
    assert {path.parent.name for path in SOURCES} == {"jaxlesion", "experiments", *BELOW} - {""}


@pytest.mark.fault(
    "input",
    "`pickle`, `joblib`, `allow_pickle=True`, `eval` or `yaml.load` in the source",
    tried="every file",
    outcome="none is used",
)
@pytest.mark.parametrize("path", SOURCES, ids=lambda p: f"{p.parent.name}.{p.stem}")
def test_nothing_executes_what_it_reads(path):
    assert not UNSAFE.search(_code(path.read_text()))


def test_docstrings_and_comments_are_no_code():
    text = '"""A pickle."""\ndef f():\n    "No pickle."  # pickle\n    x = "pickle"\n'
    assert _code(text).count("pickle") == 1


def _code(text: str) -> str:
    """Return the code of a module without comments and unused strings."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(None)
    return ast.unparse(tree)

"""Imports point down only, heavy packages load where they are used, and nothing can execute what it reads."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "jaxlesion"

LAYERS = {
    0: "__init__ _version errors config metrics intervals thresholds calibration search files memory signals",
    1: "data.__init__ data.augment data.batch data.cache data.demo data.folds data.headers data.hdf5 data.ids "
    "data.images data.duplicates data.isic2024 data.layout data.lesions data.loader data.metadata data.pipeline "
    "data.predictions data.shards figures subgroups runs",
    2: "model.__init__ model.blocks model.efficientnet model.port",
    3: "state steps optim augment sharding resident loop checkpoint compilation weights gradcam distributed",
    4: "train training evaluate predict knn duplicates report plots pictures inference api cli console",
}
LAYER = {name: layer for layer, names in LAYERS.items() for name in names.split()}

JAX = {"jax", "jaxlib", "flax", "optax", "orbax"}
HOST = {"tensorflow", "tensorflow_datasets", "pandas", "sklearn", "cv2", "albumentations"}
FORBIDDEN = {0: JAX, 1: JAX, 2: HOST, 3: HOST, 4: set()}
LATE = {"tensorflow", "tensorflow_datasets", "sklearn", "cv2", "albumentations", "matplotlib"}

# What may run what it reads. A file of numpy's is read without pickles unless told otherwise.
UNSAFE = re.compile(
    r"pickle(?!\s*=\s*False)|\b(joblib|dill|marshal|shelve)\b|torch\.load\(|yaml\.(\w+_)?load(_all)?\b"
    r"|(?<![\w.])(eval|exec|__import__)\(|\bpd\.eval\(|\bos\.(system|popen)\b|shell\s*=\s*True",
    re.IGNORECASE,
)
SOURCES = sorted([*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "experiments").rglob("*.py")])


def modules() -> dict[str, ast.Module]:
    """Every module of the package, by its name inside it."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return {".".join(p.relative_to(PACKAGE).with_suffix("").parts): ast.parse(p.read_text()) for p in paths}


TREES = modules()


def imported(nodes: Iterable[ast.AST]) -> set[str]:
    """Full names of what is imported; `from a import b` gives a.b, be it a module or not."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def run_ever(tree: ast.AST, leave_out: tuple[type, ...] = ()) -> Iterator[ast.AST]:
    """All nodes but those for type checkers alone, and those inside nodes of the types to leave out."""
    for node in ast.iter_child_nodes(tree):
        types_only = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if not types_only and not isinstance(node, leave_out):
            yield node
            yield from run_ever(node, leave_out)


def run_at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes that importing the module runs: nothing inside functions."""
    return run_ever(tree, (ast.FunctionDef, ast.AsyncFunctionDef))


def within(name: str) -> str | None:
    """The module of the package that an imported name means; None for another package's."""
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


USES = {name: {inner for i in imported(run_ever(tree)) if (inner := within(i))} for name, tree in TREES.items()}


def reached(name: str) -> set[str]:
    """The module and all that it imports, directly or not."""
    found, todo = set(), {name}
    while todo:
        found |= todo
        todo = set().union(*(USES[n] for n in todo)) - found
    return found


def test_the_table_names_every_module():
    assert set(TREES) <= set(LAYER)
    assert sum(len(names.split()) for names in LAYERS.values()) == len(LAYER)


@pytest.mark.parametrize("name", TREES)
def test_no_import_points_up(name):
    up = {other for other in USES[name] if LAYER[other] > LAYER[name]}
    assert not up, f"{name} is in layer {LAYER[name]}"


@pytest.mark.parametrize("name", TREES)
def test_no_forbidden_package_is_reached(name):
    for inner in reached(name):
        assert not outside(imported(run_ever(TREES[inner]))) & FORBIDDEN[LAYER[name]], f"{name} imports {inner}"


def test_model_and_learning_use_of_the_data_layer_only_the_batch():
    for name in (n for n in TREES if LAYER[n] in (2, 3)):
        assert {other for other in reached(name) if other.startswith("data.")} <= {"data.batch", "data.__init__"}, name


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
    assert "errors" in reached("train")
    for bad in (
        *("import pickle", "import cPickle", "import cloudpickle", "pd.read_pickle(f)", "pickle.load(f)"),
        *("np.load(f, allow_pickle=True)", "np.load(f, allow_pickle=x)", "joblib.load(f)", "y = eval(x)", "exec(x)"),
        *("yaml.load(f)", "yaml.unsafe_load(f)", "torch.load(f)", "pd.eval(x)", "marshal.loads(x)", "os.system(x)"),
        *("run(x, shell=True)", "__import__(x)"),
    ):
        assert UNSAFE.search(bad), bad
    for good in ("model.eval()", "np.load(f, allow_pickle=False)", "np.load(f)", "jax.eval_shape(f)", "retrieval(x)"):
        assert not UNSAFE.search(good), good
    assert {path.parent.name for path in SOURCES} == {"jaxlesion", "data", "model", "experiments"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: f"{p.parent.name}.{p.stem}")
def test_nothing_executes_what_it_reads(path):
    assert not UNSAFE.search(_code(path.read_text()))


def test_docstrings_and_comments_are_no_code():
    text = '"""A pickle."""\ndef f():\n    "No pickle."  # pickle\n    x = "pickle"\n'
    assert _code(text).count("pickle") == 1


def _code(text: str) -> str:
    """A module without comments and without strings that nobody uses."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(None)
    return ast.unparse(tree)

"""Build a release and check it: versions, wheel and sdist, metadata, licences and known vulnerabilities.

    make release

writes dist/ and prints a line for each check, then what is left to a person. Nothing is uploaded or tagged. The exit
code is 1 where a check failed; "not audited" is no failure, as the service of advisories may be out of reach.
"""

import json
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
WANTED = (  # in the wheel, under jaxlesion/
    *("reporting/templates/report.html.j2", "reporting/templates/model_card.md.j2", "serving/page.css"),
)
COPYLEFT = re.compile(r"\b(A?GPL|GNU (Affero )?General Public)", re.IGNORECASE)
LICENCES = re.compile(r"\b(Apache|MIT|BSD|ISC|PSF|Python Software|Mozilla|MPL|HPND|Unlicense|Zlib|CC0|LGPL|0BSD)", re.I)
PERSON = (
    "read CHANGELOG.md once more, and set the date of the section and of CITATION.cff",
    "git tag -a v{version} -m 'jaxlesion {version}', and push it",
    "twine upload dist/*, as the owner of the name on the package index",
    "publish build/site, which make docs builds",
)


class Failed(Exception):
    """A check failed, for the reason given."""


def version() -> str:
    """Return the version of the package.

    Raises:
        Failed: the changelog or the citation has another one.
    """
    found = re.search(r'"(.+)"', (ROOT / "jaxlesion" / "_version.py").read_text())[1]
    others = {
        "CHANGELOG.md": re.search(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(), re.M),
        "CITATION.cff": re.search(r"^version: (\S+)", (ROOT / "CITATION.cff").read_text(), re.M),
    }
    for name, other in others.items():
        if other is None or other[1] != found:
            raise Failed(f"{name} has version {other and other[1]}, and _version.py {found}")
    return found


def build(folder: Path) -> list[Path]:
    """Build sdist and, from it, wheel into an empty folder.

    Raises:
        Failed: they cannot be built, or lack files.
    """
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    call("-m", "build", "--outdir", str(folder), str(ROOT))
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
    with tarfile.open(sdist) as opened:
        inside = {name.partition("/")[2] for name in opened.getnames()}
    for source in [*WANTED, *(str(path.relative_to(ROOT / "jaxlesion")) for path in ROOT.glob("jaxlesion/**/*.py"))]:
        if f"jaxlesion/{source}" not in names & inside:
            raise Failed(f"wheel or sdist lacks jaxlesion/{source}")
    if not any(name.endswith("licenses/LICENSE") for name in names):
        raise Failed("the wheel lacks LICENSE")
    return [wheel, sdist]


def install(paths: list[Path], wanted: str) -> None:
    """Install each file without its dependencies into an empty environment, and ask it for its version.

    Raises:
        Failed: it does not install, or has another version.
    """
    for path in paths:
        with tempfile.TemporaryDirectory() as folder:
            call("-m", "venv", folder)
            python = str(Path(folder) / "bin" / "python")
            call("-m", "pip", "install", "--quiet", "--no-deps", str(path), python=python)
            if (found := call("-m", "jaxlesion", "--version", python=python, cwd=folder).strip()) != wanted:
                raise Failed(f"{path.name} says that it is {found}")


def licences(name: str) -> dict[str, str]:
    """Return the licence of each package that an installed one needs to run, by name; empty where it states none."""
    found: dict[str, str] = {}
    todo = [name]
    while todo:
        one = todo.pop()
        try:
            about = metadata.metadata(one)
        except metadata.PackageNotFoundError:  # of another platform
            continue
        if about["Name"].lower() in found:
            continue
        found[about["Name"].lower()] = licence_of(about)
        todo += needed(one)
    return found


def needed(name: str) -> Iterator[str]:
    """Yield the packages that an installed one needs on this platform, without its extras."""
    for text in metadata.requires(name) or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement.name


def licence_of(about: metadata.PackageMetadata) -> str:
    """Return the licence that a package states, by expression, classifiers or the first line of its text."""
    classified = [c.split(" :: ")[-1] for c in about.get_all("Classifier", []) if c.startswith("License :: ")]
    text = (about.get("License") or "").strip()  # by [] Python 3.13 warns where there is none
    return about.get("License-Expression") or ", ".join(classified) or (text.splitlines()[0] if text else "")


def audit() -> str:
    """Return what pip-audit knows about the versions that are tested; its exit code is 0 also where it knows none.

    Raises:
        Failed: it knows of a vulnerability.
    """
    command = ["-m", "pip_audit", "--requirement", str(ROOT / "constraints.txt"), "--no-deps", "--disable-pip"]
    try:
        done = subprocess.run(
            [sys.executable, *command, "--format", "json"], capture_output=True, text=True, timeout=300
        )
    except subprocess.TimeoutExpired:
        return "not audited: the service of advisories did not answer within 5 minutes"
    return audited(done.stdout, done.stderr)


def audited(output: str, errors: str) -> str:
    """Return what pip-audit's JSON says.

    Raises:
        Failed: it knows of a vulnerability.
    """
    try:
        packages = json.loads(output)["dependencies"]
    except ValueError:
        return f"not audited: {errors.strip().splitlines()[-1] if errors.strip() else 'pip-audit gave no reason'}"
    if found := {one["name"]: [known["id"] for known in one["vulns"]] for one in packages if one.get("vulns")}:
        raise Failed(f"known vulnerabilities: {found}")
    skipped = [one for one in packages if "skip_reason" in one]
    if len(skipped) == len(packages):
        return f"not audited: {skipped[0]['skip_reason'] if skipped else 'pip-audit looked at no package'}"
    rest = f"; not audited: {', '.join(one['name'] for one in skipped)}" if skipped else ""
    return f"audited: no known vulnerability in {len(packages) - len(skipped)} packages of constraints.txt{rest}"


def call(*words: str, python: str = sys.executable, cwd: str | None = None) -> str:
    """Run Python with some arguments and return what it printed.

    Raises:
        Failed: its exit code is not 0.
    """
    done = subprocess.run([python, *words], capture_output=True, text=True, cwd=cwd)
    if done.returncode:
        raise Failed(f"python {' '.join(words)}:\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def release() -> Iterator[str]:
    """Build and check, yielding a line for each check that holds."""
    number = version()
    yield f"version {number} in package, changelog and citation"
    files = build(ROOT / "dist")
    yield "built " + ", ".join(f"dist/{path.name} ({path.stat().st_size:,} bytes)" for path in files)
    call("-m", "twine", "check", "--strict", *map(str, files))
    yield "twine check: metadata and description are sound"
    install(files, number)
    yield "each installs into an empty environment and starts"
    found = {name: text for name, text in licences("jaxlesion").items() if name != "jaxlesion"}
    if copyleft := {name: text for name, text in found.items() if COPYLEFT.search(text) and "LGPL" not in text}:
        raise Failed(f"licences that bind whoever uses them: {copyleft}")
    unclear = sorted(f"{name} ({text or 'none stated'})" for name, text in found.items() if not LICENCES.search(text))
    yield f"licences of {len(found)} dependencies: none is GPL or AGPL; to be read: {', '.join(unclear) or 'none'}"
    yield audit()
    dirty = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True).stdout
    yield "git: nothing to commit" if not dirty else "git: there is something to commit first"
    yield "left to a person:\n" + "\n".join(f"  {k}. {what.format(version=number)}" for k, what in enumerate(PERSON, 1))


if __name__ == "__main__":
    try:
        for line in release():
            print(line, flush=True)
    except Failed as e:
        print(f"failed: {e}", file=sys.stderr)
        raise SystemExit(1) from None

"""The tool of releases: versions agree, and what was not looked at is not called sound."""

import importlib.util
import json
import tomllib
from email.message import Message
from pathlib import Path

import pytest

import jaxlesion

ROOT = Path(__file__).resolve().parents[1]
SPEC = importlib.util.spec_from_file_location("publishing", ROOT / ".ci" / "release.py")
publishing = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(publishing)


def test_changelog_and_citation_have_the_version_of_the_package():
    assert publishing.version() == jaxlesion.__version__


@pytest.mark.parametrize("name", ["CHANGELOG.md", "CITATION.cff"])
def test_another_version_is_a_failure(name, tmp_path, monkeypatch):
    for path in ("CHANGELOG.md", "CITATION.cff", "jaxlesion/_version.py"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text((ROOT / path).read_text())
    monkeypatch.setattr(publishing, "ROOT", tmp_path)
    assert publishing.version() == jaxlesion.__version__
    text = (tmp_path / name).read_text()
    (tmp_path / name).write_text(text.replace(jaxlesion.__version__, "9.9.9", 1))
    with pytest.raises(publishing.Failed, match=rf"{name} has version 9\.9\.9"):
        publishing.version()


def test_what_must_be_in_the_wheel_is_what_the_project_packs():
    packed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for path in publishing.WANTED:
        folder, _, rest = path.partition("/")
        assert any(Path(rest).match(pattern) for pattern in packed[f"jaxlesion.{folder}"])
        assert (ROOT / "jaxlesion" / path).is_file()


SOUND, SKIPPED = {"name": "a", "version": "1", "vulns": []}, {"name": "b", "skip_reason": "not found"}
BAD = {"name": "c", "version": "1", "vulns": [{"id": "CVE-1"}]}


@pytest.mark.parametrize(
    ("packages", "says"),
    [
        ([SOUND, SOUND], "audited: no known vulnerability in 2 packages of constraints.txt"),
        ([SOUND, SKIPPED], "audited: no known vulnerability in 1 packages of constraints.txt; not audited: b"),
        ([SKIPPED, SKIPPED], "not audited: not found"),
        ([], "not audited: pip-audit looked at no package"),
    ],
)
def test_packages_that_were_skipped_are_not_called_audited(packages, says):
    assert publishing.audited(json.dumps({"dependencies": packages}), "") == says


def test_a_vulnerability_is_a_failure_and_silence_is_not_audited():
    with pytest.raises(publishing.Failed, match="CVE-1"):
        publishing.audited(json.dumps({"dependencies": [SOUND, BAD, SKIPPED]}), "")
    assert publishing.audited("", "x\nno route to host\n") == "not audited: no route to host"
    assert publishing.audited("", "") == "not audited: pip-audit gave no reason"


def test_licences_of_all_that_is_needed_are_found():
    found = publishing.licences("jaxlesion")
    assert {"jax", "flax", "numpy", "tyro", "jaxlesion"} <= set(found)
    assert "pytest" not in found  # of an extra
    assert publishing.LICENCES.search(found["flax"])


@pytest.mark.parametrize(
    ("headers", "licence"),
    [
        ({"License-Expression": "MIT", "License": "x"}, "MIT"),
        ({"Classifier": "License :: OSI Approved :: BSD License", "License": "x"}, "BSD License"),
        ({"License": "Apache 2.0\nand so on"}, "Apache 2.0"),
        ({}, ""),
    ],
)
def test_a_licence_is_read_where_it_is_stated(headers, licence):
    about = Message()
    for name, value in headers.items():
        about[name] = value
    assert publishing.licence_of(about) == licence


@pytest.mark.parametrize("text", ["GPL-3.0", "AGPL-3.0-only", "GNU Affero General Public License v3"])
def test_copyleft_is_seen(text):
    assert publishing.COPYLEFT.search(text)
    assert not publishing.COPYLEFT.search("BSD-3-Clause")

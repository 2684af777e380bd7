"""Memory comes in large pages, and XLA is told to wait."""

import os
import subprocess
import sys
from importlib import metadata

import pytest

import jaxlesion
from jaxlesion.runtime import memory
from jaxlesion.runtime.memory import LARGE_PAGES, TERMINATE, be_patient, take_large_pages, with_large_pages

FAULTS = """
import resource

before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
b"x" * (1 << 28)  # not by numpy, which asks for large pages itself
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.fixture
def policy(tmp_path, monkeypatch):
    """Return a function that sets the kernel's policy, as if this machine's libc were a recent glibc."""
    monkeypatch.setattr(memory, "KERNELS_POLICY", str(tmp_path / "enabled"))
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.36", raising=False)
    return (tmp_path / "enabled").write_text


def faults(environ: dict[str, str]) -> int:
    """Return the page faults of allocating 256 MB, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", FAULTS], check=True, capture_output=True, text=True, env=environ)
    return int(done.stdout)


@pytest.mark.skipif(
    with_large_pages({}) == {}, reason="Linux leaves large pages to programs here not at all, or glibc is older"
)
def test_memory_comes_in_a_fraction_of_the_page_faults():
    small = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    assert faults(with_large_pages(small)) < 2000
    assert faults(small) > 60_000


@pytest.mark.parametrize(
    ("written", "libc", "before", "after"),
    [
        ("always [madvise] never", "glibc 2.36", {}, f"{LARGE_PAGES}=1"),
        ("always [madvise] never", "glibc 2.35", {"GLIBC_TUNABLES": "a.b=2"}, f"a.b=2:{LARGE_PAGES}=1"),
        ("always [madvise] never", "glibc 2.36", {"GLIBC_TUNABLES": f"{LARGE_PAGES}=0"}, f"{LARGE_PAGES}=0"),
        ("[always] madvise never", "glibc 2.36", {}, None),  # the kernel does it unasked
        ("always madvise [never]", "glibc 2.36", {}, None),
        ("always [madvise] never", "glibc 2.31", {}, None),
        ("always [madvise] never", "another", {}, None),
    ],
)
def test_large_pages_are_asked_for_where_that_helps(policy, monkeypatch, written, libc, before, after):
    policy(written)
    monkeypatch.setattr(os, "confstr", lambda name: libc, raising=False)
    assert with_large_pages(before).get("GLIBC_TUNABLES") == after


def test_a_program_starts_again_once_with_all_its_words(policy, monkeypatch):
    policy("always [madvise] never")
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-W", "error", "-m", "jaxlesion.train", "--fold", "0"])
    started = []

    def start(path, argv, environ):
        started.append((path, argv))
        monkeypatch.setenv("GLIBC_TUNABLES", environ["GLIBC_TUNABLES"])

    monkeypatch.setattr(os, "execve", start)
    take_large_pages()
    take_large_pages()
    assert started == [(sys.executable, [sys.executable, *sys.orig_argv[1:]])]


@pytest.mark.skipif(with_large_pages({}) == {}, reason="nothing is to be asked for here")
@pytest.mark.parametrize("words", [["-m", "jaxlesion.train"], ["-m", "jaxlesion"], ["-c", "import jaxlesion.train"]])
def test_commands_start_again_and_what_imports_the_package_does_not(words, tmp_path):
    """sitecustomize is run at each start of Python."""
    (tmp_path / "sitecustomize.py").write_text("import sys; print('start', file=sys.stderr)")
    environ = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    environ["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{os.path.dirname(os.path.dirname(jaxlesion.__file__))}"
    done = subprocess.run([sys.executable, *words, "--help"], capture_output=True, text=True, env=environ)
    assert done.returncode == 0
    assert done.stderr.count("start") == (2 if "-m" in words else 1)


@pytest.mark.parametrize(
    ("flags", "version", "after"),
    [
        ("", "0.10.2", f"--{TERMINATE}=3600"),
        ("--xla_dump_to=d", "0.11.2", f"--xla_dump_to=d --{TERMINATE}=3600"),
        (f"--{TERMINATE}=5", "0.10.2", f"--{TERMINATE}=5"),
        ("", "0.12.0", ""),  # may not know the flag, which would end the process
    ],
)
def test_cores_wait_an_hour_unless_the_user_says_otherwise(flags, version, after, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", flags)
    monkeypatch.setattr(metadata, "version", lambda name: version)
    be_patient()
    assert os.environ["XLA_FLAGS"] == after


def test_xla_knows_the_flag(tmp_path):
    """In a process of its own, which an unknown flag would end."""
    code = "from jaxlesion.runtime.memory import be_patient; be_patient(); import jax; print(jax.devices()[0].platform)"
    environ = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environ).stdout

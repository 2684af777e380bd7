"""Set up a process: memory in large pages, a home, and patience between cores."""

import atexit
import gc
import os
import sys
from collections.abc import Mapping
from contextlib import suppress

TERMINATE = "xla_cpu_collective_call_terminate_timeout_seconds"  # an option of XLA
LARGE_PAGES = "glibc.malloc.hugetlb"  # of glibc's tunables, from 2.35 on
KERNELS_POLICY = "/sys/kernel/mm/transparent_hugepage/enabled"


def take_large_pages() -> None:
    """Start this program again, in the same process, with memory in large pages; once, and before anything else.

    XLA on the CPU takes a step's temporary buffers, hundreds of megabytes, from malloc and gives them back after it.
    In pages of 4 kB, B1 at 224 px has 270,000 page faults a step with a batch of 16, a sixth of its time; in pages of
    2 MB, 1,500. malloc asks for those only if told when a process starts.
    """
    environ = with_large_pages(os.environ)
    if environ != os.environ and sys.executable:
        with suppress(OSError):  # then in small pages
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environ)


def with_large_pages(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment whose programs take memory in large pages, if that is for programs to ask.

    It is where Linux's policy is "madvise" and glibc knows the tunable. A tunable that is set already stays as it is.
    """
    try:
        with open(KERNELS_POLICY) as file:
            asked = "[madvise]" in file.read()
        name, version = os.confstr("CS_GNU_LIBC_VERSION").split()
        known = name == "glibc" and tuple(map(int, version.split("."))) >= (2, 35)
    except (OSError, ValueError, AttributeError):  # another kernel or another libc
        return dict(environ)
    others = environ.get("GLIBC_TUNABLES", "")
    if not (asked and known) or LARGE_PAGES in others:
        return dict(environ)
    return {**environ, "GLIBC_TUNABLES": f"{others}:{LARGE_PAGES}=1".lstrip(":")}


def prepare_process() -> None:
    """Set up the garbage collector, a home and patience; once, by a program after its imports."""
    give_home()
    be_patient()
    gc.freeze()  # objects of imports stay: searching them takes a sixth of the tracing time
    gc.set_threshold(100_000, 50, 50)  # and tracing leaves little garbage


def give_home() -> None:
    """Give a user without a home a temporary one: packages would keep their files in a folder named ~, or fail."""
    if os.path.expanduser("~") == "~":
        import tempfile

        folder = tempfile.TemporaryDirectory(prefix="jaxlesion-home-")
        atexit.register(folder.cleanup)
        os.environ["HOME"] = folder.name


def be_patient() -> None:
    """Let cores wait an hour for each other, and not a minute, after which XLA ends the process.

    A core's share of a step takes that long where other programs keep it busy. Only a flag sets this, and versions that
    do not know it would end at it.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if TERMINATE not in flags and knows_options():
        os.environ["XLA_FLAGS"] = f"{flags} --{TERMINATE}=3600".strip()


def knows_options() -> bool:
    """Return whether XLA is of a version that knows the options set here; others may end at them."""
    from importlib import metadata

    return metadata.version("jaxlib").startswith(("0.10.", "0.11."))

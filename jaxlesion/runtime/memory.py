"""Set up a process: memory that it keeps between steps, in large pages, a home, and patience between cores."""

import atexit
import ctypes
import gc
import os
import sys
import tempfile
from importlib import metadata

# From glibc's malloc.h and Linux's mman.h
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
MADV_HUGEPAGE = 14
PAGE = 4096
TERMINATE = "xla_cpu_collective_call_terminate_timeout_seconds"  # an option of XLA


def prepare_process() -> None:
    """Set up memory, the garbage collector, a home and patience; once, by a program after its imports."""
    give_home()
    be_patient()
    keep_memory()
    gc.freeze()  # objects of imports stay: searching them takes a sixth of the tracing time
    gc.set_threshold(100_000, 50, 50)  # and tracing leaves little garbage


def give_home() -> None:
    """Give a user without a home a temporary one: packages would keep their files in a folder named ~, or fail."""
    if os.path.expanduser("~") == "~":
        folder = tempfile.TemporaryDirectory(prefix="jaxlesion-home-")
        atexit.register(folder.cleanup)
        os.environ["HOME"] = folder.name


def be_patient() -> None:
    """Let cores wait an hour for each other, and not a minute, after which XLA ends the process.

    A core's share of a step takes that long where other programs keep it busy. Only a flag sets this, and versions that
    do not know it would end at it.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if TERMINATE not in flags and metadata.version("jaxlib").startswith(("0.10.", "0.11.")):
        os.environ["XLA_FLAGS"] = f"{flags} --{TERMINATE}=3600".strip()


def keep_memory() -> bool:
    """Let malloc keep freed memory, in large pages; return whether that could be done (glibc on Linux).

    XLA on the CPU takes a step's temporary buffers, gigabytes, from malloc and gives them back after it. By default
    each step then begins with hundreds of thousands of page faults. Here malloc takes everything from one heap and
    returns none of it. Half of the machine's memory is marked, not taken, for pages of 2 MB. The process stays as large
    as at its peak.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if not (libc.mallopt(M_ARENA_MAX, 1) and libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, -1)):
        return False
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    if not (start := libc.malloc(size)):
        return False  # the process has a limit: memory is kept in small pages
    first = -(-start // PAGE) * PAGE
    done = libc.madvise(first, (start + size - first) // PAGE * PAGE, MADV_HUGEPAGE) == 0
    libc.free(start)
    return done

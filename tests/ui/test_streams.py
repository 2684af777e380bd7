"""Standard output and error that nobody reads, that are closed, or that cannot encode a name."""

import io
import os
import subprocess
import sys
import threading

import pytest

from jaxlesion.ui.exits import run_program
from jaxlesion.ui.streams import EnduringStream, printable
from jaxlesion.ui.terminal import notes, results, results_to_stderr, say, show, show_table


class Broken(io.StringIO):
    """A stream whose reader has gone."""

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


def test_a_stream_that_nobody_reads_takes_everything():
    for stream in (EnduringStream(Broken()), EnduringStream(None)):
        assert stream.write("abc") == 3
        stream.flush()
        assert stream.lost is not None
        assert not stream.isatty()


def in_process(code: str, **options) -> subprocess.CompletedProcess:
    program = f"import sys, warnings, logging\nfrom jaxlesion.ui.exits import run_program\n{code}\nrun_program(main)"
    return subprocess.run([sys.executable, "-c", program], timeout=100, **options)


WORK = """
def main():
    for k in range(3):
        print("x" * 100_000, flush=True)
        print("x" * 100_000, file=sys.stderr, flush=True)
        warnings.warn("odd")
        logging.getLogger("absl").warning("odd %s", k)
    open(PATH, "w").write("done")
"""


@pytest.mark.fault(
    "runs",
    "standard output or error closed, or a pipe that nobody reads",
    tried="both, each way, in a process",
    outcome="the work goes on to its end, quietly",
)
@pytest.mark.parametrize("how", ["1>&-", "2>&-", "1>&- 2>&-", "0<&- 1>&- 2>&-", "| true", "2>&1 | true"])
def test_work_goes_on_without_a_reader(how, tmp_path):
    code = WORK.replace("PATH", repr(str(tmp_path / "done")))
    program = f"import sys, warnings, logging\nfrom jaxlesion.ui.exits import run_program\n{code}\nrun_program(main)"
    command = f'set -o pipefail; "$0" -c "$1" {how}'
    done = subprocess.run(["bash", "-c", command, sys.executable, program], capture_output=True, timeout=100)
    assert done.returncode == 0
    assert (tmp_path / "done").read_text() == "done"
    assert not done.stderr.replace(b"x", b"").replace(b"warning: odd\n", b"").replace(b"warning: odd 0\n", b"").strip()


def test_results_that_a_full_disk_has_not_taken_are_an_error():
    with open("/dev/full", "w") as full:
        done = in_process("main = lambda: print('x')", stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: standard output cannot be written (No space left")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_names_are_printed_in_any_encoding(encoding):
    code = r"main = lambda: print('\udcff', 'é', '\u4e00')"
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = in_process(code, env=environment, stdout=subprocess.PIPE, check=True)
    wanted = {"utf-8": "é 一".encode(), "ascii": rb"\xe9 \u4e00", "latin-1": b"\xe9 \\u4e00"}
    assert done.stdout == b"\xff " + wanted[encoding] + b"\n"


def test_a_name_is_one_line():
    assert printable("a\nb\tc\x1b[1m é") == r"a\nb\tc\x1b[1m é"


def test_a_program_may_run_in_a_thread():
    ended = []
    thread = threading.Thread(target=lambda: ended.append(run_program(lambda: print("x"))))
    thread.start()
    thread.join()
    assert ended == [None]


def test_notes_are_not_results_and_nothing_is_markup(capsys):
    say("run [bold]x[/] :bug:")
    show("[/] [red]y")
    show_table("t [/b]", ["[i]"], [("[/]", ":bug:")])
    out, err = capsys.readouterr()
    assert err == "run [bold]x[/] :bug:\n"
    for text in ("[/] [red]y\n", "t [/b]\n", "[i]", ":bug:"):
        assert text in out
    with results_to_stderr(True):
        show("z")
    assert capsys.readouterr() == ("", "z\n")


CELLS = [f"{k}.1234 [{k}.0000, {k}.9999]" for k in range(12)]
NAMES = [f"model-{'x' * 40}-{k}.csv" for k in range(12)]


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("terminal", [False, True])
def test_no_digit_of_a_table_is_lost(width, terminal, monkeypatch, capsys):
    monkeypatch.setattr(results, "_width", width)
    monkeypatch.setattr(results, "_force_terminal", terminal)
    show_table(f"a title {'y' * 300}", NAMES, [("label", *CELLS), None, ("other", *reversed(CELLS))])
    printed = capsys.readouterr().out
    for text in (*CELLS, *NAMES, "y" * 300):
        assert text in printed
    assert printed.count("label") == printed.count("other")
    assert (printed.count("label") > 1) == terminal
    if terminal and width == 200:
        tables = [line for line in printed.splitlines() if "y" not in line]
        assert max(map(len, tables)) <= width
    assert notes.stderr

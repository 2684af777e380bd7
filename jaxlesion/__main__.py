"""jaxlesion COMMAND ...: every command of the package under one name, as python -m jaxlesion.COMMAND."""

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module

from jaxlesion._version import __version__
from jaxlesion.runtime.memory import take_large_pages

COMMANDS = {  # in the order in which they are needed
    "doctor": "show what jaxlesion finds on this machine",
    "train": "train a network: the folds of a run, or a model of all rows",
    "tabular": "train gradient-boosted trees on the metadata",
    "knn": "compare with nearest neighbours",
    "stack": "combine runs into one",
    "evaluate": "compute metrics of a run or of predictions, with intervals",
    "report": "write a page and a model card of a run",
    "predict": "predict new lesions",
    "app": "open a page on this machine that examines crops, or answer in JSON",
    "outliers": "measure how unlike a lesion is to its patient's others",
    "duplicates": "find images that are there twice",
    "export": "write a network for other programs",
}
SHELLS = ("bash", "zsh")


def usage() -> str:
    """Return the list of all commands."""
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:{width}}  {what}" for name, what in COMMANDS.items())
    return (
        "usage: jaxlesion COMMAND [options]; COMMAND --help lists the main options, --help-all every one\n\n"
        f"{listed}\n\n  {'completion':{width}}  print the completion of all this for a shell: {', '.join(SHELLS)}\n\n"
        f"jaxlesion {__version__}. For research; not a medical device."
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command; its options are those of `python -m jaxlesion.COMMAND`."""
    if argv is None:
        take_large_pages()
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
    elif words[0] == "--version":
        print(__version__)
    elif words[0] == "completion":
        print(completion(words[1:]))
    elif words[0] in COMMANDS:
        import_module(f"jaxlesion.{words[0]}").main(words[1:])
    else:
        near = difflib.get_close_matches(words[0], COMMANDS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        print(f"error: there is no command {words[0]!r}{hint} (see jaxlesion --help)", file=sys.stderr)
        raise SystemExit(2)


def completion(words: Sequence[str]) -> str:
    """Return the script that completes commands and options in a shell.

    Raises:
        SystemExit: another shell than those tyro knows.
    """
    from jaxlesion.ui.completion import script

    if len(words) != 1 or words[0] not in SHELLS:
        print(f"error: jaxlesion completion takes one of {', '.join(SHELLS)}", file=sys.stderr)
        raise SystemExit(2)
    modules = {name: import_module(f"jaxlesion.{name}") for name in COMMANDS}
    options = {name: getattr(module, f"{name.capitalize()}Config") for name, module in modules.items()}
    return script(words[0], {name: (options[name], what) for name, what in COMMANDS.items()})


if __name__ == "__main__":
    main()

"""Completion of commands and options in a shell, written by tyro."""

import contextlib
import io
from collections.abc import Mapping
from typing import Annotated, Union

import tyro


def script(shell: str, commands: Mapping[str, tuple[type, str]]) -> str:
    """Return the completion of `jaxlesion COMMAND --option`.

    Args:
        shell: bash or zsh.
        commands: by name, the dataclass of its options and a description.
    """
    kinds = [
        Annotated[options, tyro.conf.subcommand(name, description=what)] for name, (options, what) in commands.items()
    ]
    heard = io.StringIO()
    with contextlib.redirect_stdout(heard), contextlib.suppress(SystemExit):
        tyro.cli(Union[tuple(kinds)], prog="jaxlesion", args=["--tyro-print-completion", shell])  # noqa: UP007
    return heard.getvalue().rstrip()

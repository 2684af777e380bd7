"""The one exception that a person at the prompt is meant to read."""


class InputError(ValueError):
    """Something given from outside is wrong: a file, a column, an option, a weight.

    The message is one line: what is wrong, in which file and row, and what to do. Programs print
    it without a traceback and exit with code 2 (`jaxlesion.ui.exits.run_program`).
    """

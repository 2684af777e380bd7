"""The exceptions whose messages a user reads."""


class InputError(ValueError):
    """Something given by the user is wrong: a file, a column, an option, a weight.

    The message is one line: what is wrong, in which file and row, and what to do. Programs print
    it without a traceback and exit with code 2 (`jaxlesion.ui.exits.run_program`).
    """


class Refused(Exception):
    """Says why one image is not used, as the end of a sentence that begins with its id.

    Readers of bytes raise it, since they have no id; the caller with the id makes an InputError of it.
    """

"""The command line, the terminal, and exit codes."""

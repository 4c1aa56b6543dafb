"""The command line: parse, call, print. `main` is what the command `hauberk` runs."""

from hauberk.cli.main import app, main

__all__ = ["app", "main"]

"""Errors that are the user's to mend: one line each, saying what was found, where, and what would be right."""

from __future__ import annotations


class InputError(Exception):
    """Bad input: a file, an argument or a combination of them. The command line prints it and exits with 2."""


class Deadlock(Exception):
    """A program that cannot go on: names the first op that has not ended and what it waits for."""

"""Errors that are the user's to mend: one line each, saying what was found, where, and what would be right."""

from __future__ import annotations

from cosoc.sim.shown import shown


class InputError(Exception):
    """Bad input: a file, an argument or a combination of them. The command line prints it and exits with 2.

    It is one line, whatever a library says in several and whatever names from a file are in it. Where a file has
    several faults, each of the others is a line more, a note of the error's, which Python shows beside it."""

    @property
    def lines(self) -> tuple[str, ...]:
        """All that is wrong, one line each."""
        return (str(self), *map(shown, getattr(self, "__notes__", ())))

    def __str__(self) -> str:
        return shown(" ".join(line.strip() for line in super().__str__().splitlines()))


class Deadlock(Exception):
    """A program that cannot go on: names the first op that has not ended and what it waits for."""

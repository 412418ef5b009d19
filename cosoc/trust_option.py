"""`--trust`, as every command has it that reads files which may name code."""

from __future__ import annotations

from typing import Annotated

import typer

from cosoc.sim.trust import trust


def _trusting(said: bool) -> None:
    if said:
        trust()


Trust = Annotated[
    bool,
    typer.Option(
        "--trust", help="Run core models and networks that files name as package.module:Class.", callback=_trusting
    ),
]
RunTrust = Annotated[
    bool,
    typer.Option("--trust", help="Run networks and data that RUN names as package.module:factory.", callback=_trusting),
]

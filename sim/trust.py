"""Code that a data file names: what it is, where it stands, and whether it may run.

A SoC file may name a core model (`model: package.module:Class`) and a plan a network (`package.module:factory`). Files
travel: from a colleague, from a download, inside a result. So nothing that a file names is imported unless the user has
said that he trusts it: `--trust` on the command line, which sets COSOC_TRUST=1 for the command and its workers. Without
that word the module is looked for, and not run: finders look at folders only.
"""

from __future__ import annotations

import contextlib
import os
import sys
import sysconfig
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path

from cosoc.sim.errors import InputError

VARIABLE = "COSOC_TRUST"


def trusted() -> bool:
    """Whether the user has said that code which files name may run."""
    return os.environ.get(VARIABLE) == "1"


def trust() -> None:
    """Say so, for this process and those that it starts."""
    os.environ[VARIABLE] = "1"


@contextlib.contextmanager
def trusting(said: bool = True) -> Iterator[None]:
    """Within the block, code that files name may run. said: False where somebody in the block may yet say so; what is
    said there holds there alone."""
    before = os.environ.get(VARIABLE)
    try:
        if said:
            trust()
        yield
    finally:
        os.environ.pop(VARIABLE, None)
        if before is not None:
            os.environ[VARIABLE] = before


def check_trusted(spec: str) -> None:
    """InputError unless the code that a file names as `package.module:name` may be run. spec: those words.

    Never: names in the standard library (`test.autotest` runs tests when it is imported) and `__main__`. Otherwise by
    the user's word alone; the message names module and file. Nothing is imported to find that out.
    """
    module = spec.partition(":")[0]
    first = module.partition(".")[0]
    file = located(module)
    if first in {*sys.stdlib_module_names, *sys.builtin_module_names, "__main__", "test"} or _in_library(file):
        what = "the running program itself" if first == "__main__" else "part of Python's standard library"
        raise InputError(f"{module} is {what}, which no file may have run; name a module of your own")
    if file is None and not trusted():
        raise InputError(f"no module named {module!r}, neither installed nor in {os.getcwd()}")
    if not trusted():
        raise InputError(
            f"{module} is code, in {file}, which is not run on the word of a file; if you trust it, say --trust (or "
            f"{VARIABLE}=1)"
        )


def located(module: str) -> str | None:
    """The file that importing a module would run (behind those of the packages that it is in); None where there is
    none. The working directory is looked in last."""
    first, *inner = module.split(".")
    found = (finder.find_spec(first, None) for finder in sys.meta_path)
    spec = next((one for one in found if one is not None), None) or PathFinder.find_spec(first, [os.getcwd()])
    for part in inner:
        spec = PathFinder.find_spec(part, list(spec.submodule_search_locations or ())) if spec is not None else None
    return spec.origin if spec is not None and spec.has_location else None


def _in_library(file: str | None) -> bool:
    """Whether a file comes with Python; what is installed beside it does not."""
    if file is None:
        return False
    own, added = (
        [Path(sysconfig.get_path(name)).resolve() for name in names]
        for names in (("stdlib", "platstdlib"), ("purelib", "platlib"))
    )
    place = Path(file).resolve()
    outside = any(place.is_relative_to(folder) for folder in added) or "dist-packages" in place.parts
    return not outside and "site-packages" not in place.parts and any(place.is_relative_to(folder) for folder in own)

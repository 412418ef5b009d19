"""Completion in the shell: a script for bash, zsh or fish, and what may stand where the cursor is.

The script asks `cosoc complete -- WORD...` for each word that is begun; the answer is made of the commands themselves,
and of names and keys of what comes with cosoc or stands in a SoC's file. Files are the shell's to complete.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from cosoc.sim.errors import InputError
from cosoc.sim.files.names import (
    RULES,
    list_clusters,
    list_mappings,
    list_recipes,
    list_socs,
    list_workloads,
    soc_folder,
)

BASH = """_cosoc() {
  local IFS=$'\\n'
  COMPREPLY=($(cosoc complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
  if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]]; then compopt -o nospace; fi
}
complete -o default -F _cosoc cosoc
"""
ZSH = """#compdef cosoc
_cosoc() {
  local -a found
  [[ $PREFIX == --*=* ]] && compset -P 1 '*='
  found=("${(@f)$(cosoc complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
  compadd -- "${(@)found:#*=}"
  compadd -S '' -- "${(@M)found:#*=}"
  _files
}
compdef _cosoc cosoc
"""
FISH = """function __cosoc_offered
  set -l begun (commandline -ct)
  set -l option (string match -r -- '^--[^=]+=' $begun)
  cosoc complete -- (commandline -opc)[2..-1] $begun 2>/dev/null | string replace -r -- '^' "$option"
end
complete -c cosoc -a '(__cosoc_offered)'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}
WHERE = {
    "bash": 'eval "$(cosoc completion bash)" in ~/.bashrc',
    "zsh": 'eval "$(cosoc completion zsh)" in ~/.zshrc, behind compinit',
    "fish": "cosoc completion fish > ~/.config/fish/completions/cosoc.fish",
}


def script(shell: str) -> str:
    """What a shell has to read, with a line that says where. InputError for another shell."""
    if shell not in SCRIPTS:
        raise InputError(f"completion {shell}: {', '.join(SCRIPTS)} are known")
    return f"# {WHERE[shell]}\n{SCRIPTS[shell]}"


def candidates(root: Any, words: Sequence[str]) -> list[str]:
    """What the last word may become, the words before it standing (without `cosoc`). root: the command, as click has
    it."""
    *before, begun = _apart(words) or [""]
    command, values, option = _walked(root, before)
    if option is not None:
        found = _values_of(command, option, values)
    elif begun.startswith("-"):
        found = [name for p in command.params for name in getattr(p, "opts", ()) if name.startswith("--")]
        found.append("--help")
    elif hasattr(command, "commands"):
        found = [name for name, one in command.commands.items() if not one.hidden]
    else:
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        free = [p for n, p in enumerate(arguments) if n >= len(values)] or [p for p in arguments if p.nargs == -1]
        found = _values_of(command, free[0], values) if free else []
    return sorted({one for one in found if one.startswith(begun)})


def _apart(words: Sequence[str]) -> list[str]:
    """Words with an option and its value as two, where they are one (zsh, fish) or three (bash)."""
    out = list[str]()
    for n, word in enumerate(words):
        if word == "=" and n and words[n - 1].startswith("--"):
            out += [""] if n == len(words) - 1 else []
        elif word.startswith("--") and "=" in word:
            out += word.split("=", 1)
        else:
            out.append(word)
    return out


def _walked(root: Any, words: Sequence[str]) -> tuple[Any, list[str], Any]:
    """The command that words lead to, its arguments so far, and the option whose value comes next, if one does."""
    command, values, option = root, list[str](), None
    for word in words:
        if option is not None:
            option = None
        elif word.startswith("-"):
            known = next((p for p in command.params if word in getattr(p, "opts", ())), None)
            option = None if known is None or getattr(known, "is_flag", False) else known
        elif hasattr(command, "commands"):
            command = command.commands.get(word, command)
        else:
            values.append(word)
    return command, values, option


def _values_of(command: Any, parameter: Any, values: Sequence[str]) -> list[str]:
    """The values that an argument or an option may have. values: the arguments before it, the SoC first."""
    name = str(parameter.name)
    choices = _literals(get_type_hints(inspect.unwrap(command.callback)).get(name))
    if choices:
        return choices
    known: dict[str, Callable[[], Sequence[str]]] = {
        "soc": _machines if command.name in ("simulate", "search") else list_socs, "a": list_socs,
        "workload": list_workloads, "b": list_workloads, "beside": list_workloads,
        "mapping": lambda: _mappings(values), "mappings": lambda: _mappings(values),
        "mappings_beside": lambda: _mappings(values), "overrides": lambda: _keys(values),
        "what_if": lambda: _keys(values), "space": _spaces, "objective": _objectives, "shell": lambda: list(SCRIPTS),
        "sets": _sets, "data": lambda: ["digits"], "recipe": list_recipes,
    }  # fmt: skip
    return list(known[name]()) if name in known else []


def _literals(hint: Any) -> list[str]:
    """The words of a Literal, wherever it stands in a type."""
    if get_origin(hint) is Literal:
        return [str(one) for one in get_args(hint)]
    return [word for inner in get_args(hint) for word in _literals(inner)]


def _machines() -> Sequence[str]:
    return [*list_socs(), *list_clusters()]


def _mappings(values: Sequence[str]) -> Sequence[str]:
    return list_mappings(values[0]) if values else RULES


def _spaces() -> Sequence[str]:
    from cosoc.search.spaces.chain import CHAINS

    return ["+".join(chain) for chain in CHAINS]


def _objectives() -> Sequence[str]:
    from cosoc.sim.figures import OBJECTIVES

    return list(OBJECTIVES)


def _sets() -> Sequence[str]:
    from cosoc.sim.truth import SETS

    return [one.name for one in SETS]


def _keys(values: Sequence[str]) -> Sequence[str]:
    """The numbers in a SoC's file, as paths that `--set` takes."""
    from cosoc.sim.files.yamlfile import read_plain

    if not values:
        return []
    path = soc_folder() / f"{values[0]}.yaml" if values[0] in list_socs() else Path(values[0])
    try:
        return [f"{key}=" for key in _paths(read_plain(path))]
    except (InputError, OSError):
        return []


def _paths(content: Any, before: str = "") -> Iterator[str]:
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        path = f"{before}.{key}" if before else str(key)
        if isinstance(value, (int, float)):
            yield path
        yield from _paths(value, path)

"""Core models from outside of this package: `model: package.module:Class` in a SoC file.

The class is a subclass of `cosoc.sim.model.soc.Core`, and its fields are the keys that the file may give. The module is
imported when a file that names it is read and the user trusts it (`cosoc.sim.trust`), from wherever Python finds it;
the working directory is looked in last.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from typing import Annotated, Any, NoReturn

from pydantic import GetJsonSchemaHandler, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, ValidationError

from cosoc.sim.cores import BuiltInCore
from cosoc.sim.errors import InputError
from cosoc.sim.model.soc import Core
from cosoc.sim.trust import check_trusted

SPEC = r"[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*"


def own_core(spec: str) -> type[Core]:
    """The class that `package.module:Class` names. InputError says what is wrong with it, or that nobody trusts it."""
    check_trusted(spec)
    package, _, name = spec.partition(":")
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.append(folder)  # and it stays there: worker processes take the path over, and import the class anew
    try:
        imported = importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise InputError(f"no module named {error.name!r}, neither installed nor in {folder}") from error
    except Exception as error:  # whatever the module does when it is imported
        raise InputError(f"{package} cannot be imported: {type(error).__name__}: {error}") from error
    found = getattr(imported, name, None)
    if found is None:
        raise InputError(f"{package} has no {name!r}")
    if not (isinstance(found, type) and issubclass(found, Core)):
        raise InputError(f"{spec} is no core model; a subclass of cosoc.sim.model.soc.Core is needed")
    missing = [method for method in ("fits", "cycles") if getattr(found, method) is getattr(Core, method)]
    if missing:
        raise InputError(f"{spec} does not say {' and '.join(missing)}, which every core model must")
    return found


def _any_core(value: Any, built_in: ValidatorFunctionWrapHandler) -> Any:
    spec = value.get("model") if isinstance(value, dict) else None
    if not isinstance(spec, str) or ":" not in spec:
        return built_in(value)
    if not re.fullmatch(SPEC, spec):
        _refuse("a core model of your own is named package.module:Class", spec)
    try:
        model = own_core(spec)
    except InputError as error:
        _refuse(str(error), spec)
    return model.model_validate(value)


def _refuse(message: str, spec: str) -> NoReturn:
    # The text goes in as a value, so that braces in it are not taken for a template.
    error = PydanticCustomError("own_core", "{message}", {"message": message})
    raise ValidationError.from_exception_data("core", [InitErrorDetails(type=error, loc=("model",), input=spec)])


class _OwnCoreSchema:
    """In the JSON schema, a core of one's own may have any key: only its class knows them."""

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        own = {"type": "object", "required": ["model"], "patternProperties": {"^model$": {"pattern": f"^{SPEC}$"}}}
        return {"anyOf": [handler(schema), own]}


AnyCore: Any = Annotated[BuiltInCore, WrapValidator(_any_core), _OwnCoreSchema]

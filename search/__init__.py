"""The optimiser. The package is the verb, too: `cosoc.search("diana", "digits_cnn")` calls `cosoc.searching.search`.

Importing a module of a package puts the package into its parent's attribute of that name, so that a function of that
name would be there until somebody does; a package that can be called is there always.
"""

import inspect
import sys
from types import ModuleType

from cosoc.searching import search as _search


class _Search(ModuleType):
    __call__ = staticmethod(_search)


sys.modules[__name__].__class__ = _Search
__signature__ = inspect.signature(_search)  # what help and editors show of the call

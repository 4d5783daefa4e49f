"""Does something when a module is imported, by whoever imports it first."""

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def when_imported(name: str, then: Callable[[], None]) -> None:
    """Call `then` at once if the module is there, else when its import is done and before its use.

    A second call for a module that is not there yet replaces the first one.

    Args:
        name: A module that is in no package.
        then: What it raises the import raises.
    """
    sys.meta_path[:] = [
        finder
        for finder in sys.meta_path
        if not (isinstance(finder, _Finder) and finder.name == name)
    ]
    if name in sys.modules:
        then()
    else:
        sys.meta_path.insert(0, _Finder(name, then))


class _Finder:
    """Finds the module where the others do; stays until an import of it went well."""

    def __init__(self, name: str, then: Callable[[], None]) -> None:
        self.name = name
        self.then = then

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        for finder in [*sys.meta_path]:
            find: Any = getattr(finder, "find_spec", None)
            found: Any = find(fullname, path, target) if find and finder is not self else None
            if found is not None:
                if found.loader is not None:
                    found.loader = _Loader(found, self)
                return found
        return None

    def imported(self) -> None:
        self.then()
        if self in sys.meta_path:
            sys.meta_path.remove(self)


class _Loader:
    """Loads a module as its own loader does, which is all that the module has in the end."""

    def __init__(self, spec: ModuleSpec, finder: _Finder) -> None:
        self._spec = spec
        self._own: Any = spec.loader
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._spec.loader = module.__loader__ = self._own
        self._own.exec_module(module)
        self._finder.imported()

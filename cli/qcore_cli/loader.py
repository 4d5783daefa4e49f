"""From "package.module:app" to the App, with errors that say what to fix."""

import importlib
import sys
import sysconfig
import traceback
from pathlib import Path
from types import ModuleType

import qcore
from qcore import App, AppNotFound

#: Code that is not the user's: of qcore, of Python, of packages.
_OURS = Path(qcore.__file__).parent
_STANDARD = Path(sysconfig.get_paths()["stdlib"])
_PACKAGES = frozenset(("site-packages", "dist-packages"))
#: On the way from the command to the user's module.
_MACHINERY = (__file__, importlib.__file__)


def load_app(path: str) -> App:
    """Import the module and return its App; the current folder comes first on the path.

    The modules that it includes are imported as well.

    Raises:
        AppNotFound: the path has another form, a module cannot be imported, or it holds no App
            under that name. A note carries the trace of what the import raised.
    """
    module_name, colon, name = path.partition(":")
    if not (module_name and colon and name):
        raise AppNotFound(f"{path!r} is no app path: write MODULE:NAME, as in tasks:app")
    if module_name.endswith(".py") or "/" in module_name:
        meant = module_name.removesuffix(".py").strip("./").replace("/", ".")
        raise AppNotFound(f"{path!r} names a file: write the module that it is, {meant}:{name}")
    try:
        folder = str(Path.cwd())
    except OSError as e:
        raise AppNotFound(f"the current folder was removed ({e.strerror}): go to another") from e
    if folder not in sys.path:
        sys.path.insert(0, folder)
    module = _import(module_name, "")
    app = getattr(module, name, None)
    if isinstance(app, App):
        for included in app.include:  # now that they can import the app
            _import(included, f", which {module_name}:{name} includes,")
        return app
    found = [key for key, value in vars(module).items() if isinstance(value, App)]
    hint = (
        f"it has {', '.join(f'{module_name}:{key}' for key in found)}"
        if found
        else ("it holds no App at all")
    )
    what = "is no App" if hasattr(module, name) else "does not exist"
    raise AppNotFound(f"{name!r} in {module_name} {what}: {hint}")


def _import(name: str, why: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as e:
        if e.name and (name == e.name or name.startswith(e.name + ".")):
            raise AppNotFound(
                f"there is no module {e.name!r}{why} in {Path.cwd()} or on PYTHONPATH: start the "
                "command in the folder that holds it"
            ) from e
        raise _failed(name, why, e) from e
    except (Exception, SystemExit) as e:
        raise _failed(name, why, e) from e


def _failed(name: str, why: str, error: BaseException) -> AppNotFound:
    """Return the error of an import that failed, with the line and the trace of the user's code."""
    own = _own_frames(error)
    place = f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
    lines = "".join(traceback.format_list(own)).splitlines()
    if isinstance(error, SyntaxError):
        place = f" ({error.filename}, line {error.lineno})"
        lines += "".join(traceback.format_exception_only(error)).splitlines()[:-1]
    failed = AppNotFound(f"importing {name}{why} failed: {_named(error)}{place}")
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    while cause is not None:
        where = "".join(f" ({f.filename}, line {f.lineno})" for f in _own_frames(cause)[-1:])
        lines.append(f"  caused by {_named(cause)}{where}")
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    if lines:
        failed.add_note("\n".join(lines))
    return failed


def _named(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg}"
    return f"{type(error).__name__}: {error}"


def _own_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Return the frames of the user's code, or of a library when there is no other."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<")
        and not Path(frame.filename).is_relative_to(_OURS)
        and frame.filename not in _MACHINERY
    ]
    return [frame for frame in frames if not _is_installed(frame.filename)] or frames


def _is_installed(file: str) -> bool:
    path = Path(file)
    return path.is_relative_to(_STANDARD) or bool(_PACKAGES.intersection(path.parts))

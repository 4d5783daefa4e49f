"""From "package.module:app" to the App, with errors that say what to fix."""

import importlib
import sys
import traceback
from pathlib import Path

import qcore
from qcore import App, AppNotFound

_LIBRARY = Path(qcore.__file__).parent


def load_app(path: str) -> App:
    """Import the module and return its App; the current folder comes first on the path.

    Raises:
        AppNotFound: the path has another form, the module cannot be imported, or it holds no App
            under that name.
    """
    module_name, colon, name = path.partition(":")
    if not (module_name and colon and name):
        raise AppNotFound(f"{path!r} is no app path: write MODULE:NAME, as in tasks:app")
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as e:
        if e.name and (module_name == e.name or module_name.startswith(e.name + ".")):
            raise AppNotFound(
                f"there is no module {e.name!r} in {folder} or on PYTHONPATH: start the command "
                "in the folder that holds it"
            ) from e
        raise AppNotFound(f"importing {module_name} failed: {_where(e)}") from e
    except (Exception, SystemExit) as e:
        raise AppNotFound(f"importing {module_name} failed: {_where(e)}") from e
    app = getattr(module, name, None)
    if isinstance(app, App):
        return app
    found = [key for key, value in vars(module).items() if isinstance(value, App)]
    hint = (
        f"it has {', '.join(f'{module_name}:{key}' for key in found)}"
        if found
        else ("it holds no App at all")
    )
    what = "is no App" if hasattr(module, name) else "does not exist"
    raise AppNotFound(f"{name!r} in {module_name} {what}: {hint}")


def _where(error: BaseException) -> str:
    """Return the error with its place: for one that qcore raises, the line that called qcore."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not Path(frame.filename).is_relative_to(_LIBRARY)]
    last = (theirs or frames)[-1]
    return f"{type(error).__name__}: {error} ({last.filename}, line {last.lineno})"

"""The context variables that a job starts with."""

import contextvars
import decimal

_DECIMAL_SETTINGS = ("prec", "rounding", "Emin", "Emax", "capitals", "clamp", "traps")


def clean_context() -> contextvars.Context:
    """Return a copy of the context of whoever calls, for jobs to get copies of.

    No decimal context is in it: that is changed in place, so all copies would share it. What the
    app has set in it becomes the default of the process, from which each job gets one of its own.
    """
    clean = contextvars.Context()
    for variable, value in contextvars.copy_context().items():
        if isinstance(value, decimal.Context):
            for name in _DECIMAL_SETTINGS:
                setattr(decimal.DefaultContext, name, getattr(value, name))
        else:
            clean.run(variable.set, value)
    return clean

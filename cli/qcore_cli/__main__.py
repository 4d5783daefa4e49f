"""`python -m qcore_cli` is the `qcore` command."""

from qcore_cli.main import run

run()

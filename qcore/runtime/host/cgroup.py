"""The control group of this process: where the kernel tells what a container or a unit may use."""

from collections.abc import Iterator
from pathlib import Path


def folders(controller: str, root: Path = Path("/")) -> Iterator[Path]:
    """Yield the folders that may hold its files: those of its group and of all above it.

    Of both versions; in a container the path of the group may be one of its host, and only the top
    be there.

    Args:
        controller: As version 1 calls it: cpu, memory.
        root: Where `proc` and `sys` are.
    """
    top = root / "sys" / "fs" / "cgroup"
    for line in read(root / "proc" / "self" / "cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield from _upwards(top, path)
        elif controller in controllers.split(","):
            yield from _upwards(top / controller, path)


def _upwards(top: Path, path: str) -> Iterator[Path]:
    group = top / path.strip("/")
    while group.is_relative_to(top):
        yield group
        group = group.parent


def read(file: Path) -> str:
    """Return what is in a file; nothing where there is none."""
    try:
        return file.read_text()
    except OSError:
        return ""

"""Writes docs/reference/python-api.md from the docstrings; --check fails if it would change."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent, indent

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reference" / "python-api.md"
#: Heading -> module and the classes that it describes; a base class adds its methods.
SECTIONS = {
    "App": ("qcore/app.py", ("App",)),
    "Queue": ("qcore/queue.py", ("Queue",)),
    "Unique": ("qcore/uniqueness.py", ("Unique",)),
    "Task": ("qcore/task.py", ("Task", "Dispatch")),
    "Enqueued": ("qcore/model/admission.py", ("Enqueued",)),
    "JobHandle": ("qcore/handle.py", ("JobHandle",)),
    "Context": ("qcore/context.py", ("Context",)),
    "Inspector": ("qcore/broker/redis/inspector.py", ("Inspector",)),
    "QueueStats": ("qcore/model/views.py", ("QueueStats",)),
    "JobRecord": ("qcore/model/views.py", ("JobRecord",)),
    "Retry": ("qcore/model/retry.py", ("Retry",)),
    "Exponential": ("qcore/model/retry.py", ("Exponential",)),
    "RetryLater": ("qcore/model/retry.py", ("RetryLater",)),
    "GiveUp": ("qcore/model/retry.py", ("GiveUp",)),
    "JobStatus": ("qcore/model/job.py", ("JobStatus",)),
}
#: Public names within the library that are of no use to who uses it.
INTERNAL = {
    *("App.broker", "App.config", "App.configure", "App.lifespan_state", "App.work_at"),
    "Queue.depth_limit",
    *("Task.handle", "Task.keep_ms", "Task.with_context", "Retry.delay_s", "Exponential.delay_s"),
}
HEAD = """\
# Python API

Everything here is imported from `qcore`, except `Inspector` and what it returns.
This page is written from the docstrings by `scripts/api_page.py`.
The how-to guides tell how a thing is used, [Types](types.md) which values fit it.
"""
_LINE_CHARS = 88
_SECTION = re.compile(r"^(Args|Attributes|Raises|Returns):\n((?:    .*\n?|\n)+)", re.MULTILINE)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def page() -> str:
    """Return the whole page."""
    parts = [HEAD]
    for heading, (file, names) in SECTIONS.items():
        classes = classes_of(file)
        parts += [f"## {heading}\n", *described(heading, [classes[name] for name in names])]
    return "\n".join([*parts, "## Errors\n", *errors()])


def classes_of(file: str) -> dict[str, ast.ClassDef]:
    """Return the classes of a module, by name."""
    body = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
    return {node.name: node for node in body if isinstance(node, ast.ClassDef)}


def described(heading: str, classes: list[ast.ClassDef]) -> Iterator[str]:
    """Yield the text on a class, then on each public member of it and of its bases."""
    functions = [node for kind in classes for node in kind.body if isinstance(node, Function)]
    for node in functions:
        if node.name == "__init__" and heading == "App":
            yield signature(node, heading)
    yield prose(ast.get_docstring(classes[0]) or "")
    yield from fields(classes[0])
    for node in functions:
        name, doc = f"{heading}.{node.name}", ast.get_docstring(node)
        if not node.name.startswith("_") and name not in INTERNAL and doc:
            yield f"### {name}\n"
            if "property" not in decorators(node):
                yield signature(node, node.name)
            yield prose(doc)


def decorators(node: Function) -> set[str]:
    """Return the plain names that a function is decorated with."""
    return {found.id for found in node.decorator_list if isinstance(found, ast.Name)}


def signature(node: Function, name: str) -> str:
    """Return the head of a function as its source has it, one parameter a line where it is long."""
    arguments = ast.unparse(node.args).removeprefix("self").removeprefix(", ").replace("=", " = ")
    kind = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    returns = f" -> {ast.unparse(node.returns)}" if node.returns and name == node.name else ""
    line = f"{kind}{name}({arguments}){returns}"
    if len(line) > _LINE_CHARS:
        apart = re.sub(r", (?=[*\w]+(?:[:,]| =|$))", ",\n    ", arguments)
        line = f"{kind}{name}(\n    {apart},\n){returns}"
    return f"```text\n{line}\n```\n"


def escaped(text: str) -> str:
    """Return what reads as `text` in the cell of a table."""
    return text.replace("|", r"\|")


def fields(kind: ast.ClassDef) -> Iterator[str]:
    """Yield a table of the fields of a struct, or of the members of an enum."""
    rows = [
        f"| `{ast.unparse(node.target)}` | `{escaped(ast.unparse(node.annotation))}` |"
        for node in kind.body
        if isinstance(node, ast.AnnAssign)
    ]
    members = [
        f"`{target.id}`"
        for node in kind.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id.isupper()
    ]
    if rows:
        yield "\n".join(["| field | type |", "|---|---|", *rows, ""])
    if members:
        yield f"Members: {', '.join(members)}.\n"


def prose(doc: str) -> str:
    """Return a docstring as Markdown: its sections become lists."""
    text = re.sub(
        r"^(Args|Attributes|Raises|Returns|Yields):\n((?:    .*\n?|\n)+)",
        listed,
        doc,
        flags=re.MULTILINE,
    )
    return f"{text.strip()}\n"


def listed(found: re.Match[str]) -> str:
    """Return one section of a docstring as a list, an entry for each line that is not indented."""
    body = dedent(found[2]).strip()
    if found[1] == "Returns":
        return f"**Returns**: {body}\n\n"
    entries = re.split(r"\n(?! )", body)
    if found[1] in ("Args", "Attributes"):
        entries = [re.sub(r"^(\w+): ", r"`\1`: ", entry) for entry in entries]
    shown = "\n".join(f"- {indent(dedent_rest(entry), '  ').strip()}" for entry in entries)
    return f"**{found[1]}**\n\n{shown}\n\n"


def dedent_rest(entry: str) -> str:
    """Return an entry whose second and later lines stand where the first does."""
    first, _, rest = entry.partition("\n")
    return f"{first}\n{dedent(rest)}" if rest else first


def errors() -> Iterator[str]:
    """Yield a paragraph on each error."""
    for name, node in classes_of("qcore/errors.py").items():
        bases = ", ".join(f"`{ast.unparse(base)}`" for base in node.bases)
        yield f"### {name}\n\nA kind of {bases}.\n\n{prose(ast.get_docstring(node) or '')}"


def main() -> int:
    """Write the page, or say whether it is up to date."""
    text = page()
    if "--check" not in sys.argv:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    print(f"{PAGE.relative_to(ROOT)} is not what the docstrings say: run scripts/api_page.py")
    return 1


if __name__ == "__main__":
    sys.exit(main())

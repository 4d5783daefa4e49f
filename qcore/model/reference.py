"""The reference of a job, `QUEUE/ID`: by which it is named everywhere."""


def reference(queue: str, id: str) -> str:
    """Return the reference of a job."""
    return f"{queue}/{id}"


def parts_of(ref: str) -> tuple[str, str] | None:
    """Return the queue and the id in a reference; None for what is none."""
    queue, _, id = ref.partition("/")
    return (queue, id) if queue and id else None

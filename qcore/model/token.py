"""The token of a lease, `owner:seq:id`: the proof that its holder may settle it."""


def owner_of(token: bytes) -> bytes:
    """Return the owner in a token: the process that claimed."""
    return token.partition(b":")[0]


def id_of(token: bytes) -> bytes:
    """Return the id of the job in a token."""
    return token.split(b":", 2)[-1]

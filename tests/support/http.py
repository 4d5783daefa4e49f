"""Asks a page over HTTP, as a probe or a scraper does."""

import asyncio


async def ask(port: int, request: bytes, host: str = "127.0.0.1") -> bytes:
    """Send bytes and return all that comes back; empty when nobody listens."""
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError:
        return b""
    try:
        writer.write(request)
        return await asyncio.wait_for(reader.read(), 20)
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def get(port: int, path: str, *, host: str = "127.0.0.1") -> tuple[int, str]:
    """Return status and body of a page; 0 when nobody answers."""
    said = await ask(port, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), host)
    if not said:
        return 0, ""
    head, _, body = said.partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()

"""The app that the samples of this folder run: put yours in its place."""

import asyncio

from qcore import App

app = App()


@app.task(timeout=20)
async def remind(customer: str, after_s: float = 0.0) -> str:
    """Pretend to write to a customer."""
    await asyncio.sleep(after_s)
    return f"reminded {customer}"

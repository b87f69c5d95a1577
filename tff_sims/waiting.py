"""TFF's program managers are asynchronous; a simulation has nothing else to do meanwhile."""

import asyncio
import functools


def wait_for(coroutine):
    """Runs a coroutine to its end, on one event loop that is kept, and returns its result."""
    return _loop().run_until_complete(coroutine)


@functools.cache
def _loop():
    return asyncio.new_event_loop()

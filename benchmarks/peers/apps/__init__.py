"""A no-op task on each queue. A module runs in its peer's environment, as worker and as producer.

A module has `submit(number)`, and `setup()` and `close()` where a producer needs them; all three
are coroutines where IS_ASYNC, on trio where LOOP says so.
"""

"""Runs one handler call: on trio, in a thread or in a worker process.

`runner.py` has the `HandlerRunner` a worker calls, and is the file to read first; `threads.py` and
`processes.py` are two of the three ways to run; `child.py` is the other end of a worker process.
`failures.py` turns an exception into what is stored.

Nothing is imported here: a worker process imports this package too, and should not pay for trio.
"""

"""`tqe top`: the operator's overview, live.

`looks.py` asks, `overview.py` makes numbers of it, `lines.py` text, `screen.py` says what stands
where, `top.py` looks again and does what keys ask for, `terminal.py` is curses (ADR 0049).
"""

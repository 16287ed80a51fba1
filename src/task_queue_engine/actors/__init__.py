"""The stages of the line, one per file. `engine/pipeline.py` wires them.

An actor has a keyword-only constructor that does no I/O, one `async def run(self)`, channels named
for what they carry, and a frozen `statistics()`.
"""

"""How far one table, one queue and one file go, and what that costs:
`python -m benchmarks.capacity`."""

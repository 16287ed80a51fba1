"""Does a promise's test fail when its mechanism is taken out? `make mutants` tries.

`mutants/` lists what is taken out of which file, and which tests have to fail then;
`python -m tests.mutants` does it, in a copy of the source for each. `tests/test_promises.py` checks
that the tests on the list are those named for the promises, and that the list fits the source.
"""

"""The mechanisms of the promises, a group of promises a file."""

from __future__ import annotations

from tests.mutants.mutants import ending, failing, limiting, owning, storing, waiting

MUTANTS = (
    *storing.MUTANTS,
    *owning.MUTANTS,
    *failing.MUTANTS,
    *waiting.MUTANTS,
    *ending.MUTANTS,
    *limiting.MUTANTS,
)

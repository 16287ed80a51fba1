import os
import sys

# Environments made for containers often forbid it. Then each process that takes part in the tests
# would rewrite every assertion anew, and what it starts would compile the package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

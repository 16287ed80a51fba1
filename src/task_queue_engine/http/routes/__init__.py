"""The endpoints, one class for each group of paths."""

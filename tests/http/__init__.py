"""tests/__init__.py makes this `tests.http`, which hides nothing."""  # noqa: A005

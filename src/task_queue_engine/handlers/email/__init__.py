"""The task type `email`; `handler.py` is the way in."""

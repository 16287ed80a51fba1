"""The task type `data-export`; `handler.py` is the way in."""

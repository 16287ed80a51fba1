"""The task type `image-resize`; `handler.py` is the way in."""

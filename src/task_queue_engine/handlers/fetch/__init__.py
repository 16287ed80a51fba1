"""Fetching of URLs that clients name, without harm; `safe_fetch.py` is the way in."""

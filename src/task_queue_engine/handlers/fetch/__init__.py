"""URLs that strangers name, fetched without harm; `safe_fetch.py` is the way in."""

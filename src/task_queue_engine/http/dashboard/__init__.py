"""The pages: HTML made here, which reads and works without a script; the script that comes along
keeps it live.

`routes.py` says which pages there are, and is all that is imported at the start. What a page shows
is in `looks.py`, what its buttons do in `changes.py`; what tasks can be filtered by and what can be
done to them is one table each, in `listing.py`. What people read is in `templates/`, and where code
chooses among texts, in `texts.py`.
"""

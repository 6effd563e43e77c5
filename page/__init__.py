"""The web page: widgets, and calls of what demo.py calls, too. `app.py` is its command line."""

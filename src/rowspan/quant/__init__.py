"""Weight schemes: their geometry (scheme.py, no torch), and what their blocks mean (one file per scheme or pair)."""

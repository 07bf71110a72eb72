"""The full-text pages: the form for a note, and the search for notes."""

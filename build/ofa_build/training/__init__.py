"""Training of OFA captioners."""

"""Other ways to serve the same captions, each in a file of its own, measured against the product's in one run."""

"""The library behind the served models: images, beam search, engines, the launcher. Needs no torch."""

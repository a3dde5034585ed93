"""The Python models that Triton runs; ``model_repository/*/1/model.py`` only import them."""

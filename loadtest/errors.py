"""What ends a load test without a verdict."""


class LoadError(Exception):
    """The load could not be made; says why."""

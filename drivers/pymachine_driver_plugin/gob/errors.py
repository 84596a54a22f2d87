"""The error of the package."""


class GobError(ValueError):
    """A stream is not gob or has an unsupported kind, or a value does not fit its type."""

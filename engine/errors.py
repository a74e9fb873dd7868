"""Everything that can go wrong in the engine, by name."""

from __future__ import annotations


class EngineError(Exception):
    """The engine could not do what was asked."""


class InvalidParameter(EngineError):
    """A parameter lies outside its stated range."""


class InvalidFrame(EngineError):
    """A frame cannot be protected as given (size, range, window)."""


class NoFeasiblePlacement(EngineError):
    """The logo has no place outside every lesion box, however small it is made."""


class NoLesionFound(EngineError):
    """No map has a peak, no region was given, and guessing is not allowed."""


class ModelError(EngineError):
    """A model file is missing, damaged, or does not fit its card."""


class RecoveryFailed(EngineError):
    """The rebuilt pixels do not have the recorded digest: wrong image or key."""

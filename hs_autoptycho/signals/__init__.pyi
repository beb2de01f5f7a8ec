from .ptychographic_object import LazyPtychographicObject, PtychographicObject

__all__ = [
    "LazyPtychographicObject",
    "PtychographicObject",
]

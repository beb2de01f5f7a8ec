from ._abtem import from_abtem
from ._py4dstem import from_py4dstem, to_py4dstem

__all__ = ["from_abtem", "from_py4dstem", "to_py4dstem"]

"""Arithmetic whose results are plain signals; for the result signals to inherit."""

from __future__ import annotations

from typing import Any

from hyperspy.api import signals


class PlainResults:
    """Operators, sums and `rebin` of HyperSpy that leave the class and the record behind.

    The record speaks of the values as they were found: of their sums or multiples, its numbers
    and figures would be wrong.
    """

    _entry: str  # of the metadata, with the record

    def _binary_operator_ruler(self, other: Any, op_name: str):
        # of `signal *= 2` too, where the result is the signal itself
        return self._plain_result(super()._binary_operator_ruler(other, op_name))

    def _unary_operator_ruler(self, op_name: str):
        return self._plain_result(super()._unary_operator_ruler(op_name))

    def _apply_function_on_data_and_remove_axis(self, function, axes, out=None, **kwargs: Any):
        result = super()._apply_function_on_data_and_remove_axis(function, axes, out=out, **kwargs)
        # without an axis to remove HyperSpy gives back the signal, or nothing into `out`
        return result if result is None or result is self else self._plain_result(result)

    def rebin(self, *args: Any, **kwargs: Any):
        result = super().rebin(*args, **kwargs)
        return None if result is None else self._plain_result(result)

    rebin.__doc__ = signals.Signal2D.rebin.__doc__

    def _plain_result(self, result):
        if result.metadata.has_item(self._entry):
            delattr(result.metadata, self._entry)
        result.set_signal_type("")  # last: `self` may be the result, and loses `_entry` with it
        return result

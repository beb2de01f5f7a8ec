"""The reconstructed object, as a HyperSpy signal that carries its whole reconstruction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from hyperspy.api import signals
from scipy.ndimage import distance_transform_edt

from hs_autoptycho.signals._axes import angstroms, check_order
from hs_autoptycho.signals._object_figures import ObjectFigures
from hs_autoptycho.signals._plain import in_memory, to_json, to_plain
from hs_autoptycho.signals._reconstruction_record import ReconstructionRecord
from hs_autoptycho.signals._spectrum import (
    half_bit_limit,
    information_limit,
    magnitude_spectrum,
    object_phase,
)


class PtychographicObject(ReconstructionRecord, ObjectFigures, signals.ComplexSignal2D):
    """Transmission function of a specimen, with the reconstruction that gave it.

    Data are complex, ``(slice | x, y)``, the signal axes in Å. Probe, positions, history,
    parameters, geometry, seed, versions, the fingerprint of the data and, after tuning, every
    trial are stored in ``metadata.Ptychography``: saved to ``.hspy`` or ``.zspy`` they are part
    of one file, and ``hs.load`` gives them back with this class.

    The results of ``real``, ``imag``, ``amplitude``, ``phase`` and ``fft`` are plain HyperSpy
    signals. Sliced, copied or multiplied, an object remains one.

    See Also
    --------
    from_reconstruction : Build one from arrays.
    """

    _signal_type = "ptychographic_object"

    @classmethod
    def from_reconstruction(
        cls,
        object: np.ndarray,
        *,
        axes: Sequence[Mapping[str, Any]],
        probe: np.ndarray,
        probe_axes: Sequence[Mapping[str, Any]],
        positions: np.ndarray,
        scan_shape: tuple[int, int],
        history: Mapping[str, Sequence[float]],
        parameters: Mapping[str, Any],
        geometry: Mapping[str, Any],
        status: str,
        seed: int | None,
        versions: Mapping[str, str],
        fingerprint: str,
        notes: Sequence[str],
        tuning: Mapping[str, Any] | None = None,
        recording: Mapping[str, Any] | None = None,
        found: Mapping[str, np.ndarray] | None = None,
        original_metadata_general: Mapping[str, Any] | None = None,
    ) -> PtychographicObject:
        """Build the signal from plain arrays and dictionaries.

        Parameters
        ----------
        object
            Complex array (slices, y, x), or (y, x) for a single slice.
        axes
            HyperSpy axis dictionaries of the object in the order of its array: y and x, or
            slice, y and x.
        probe
            Complex array (modes, y, x) or (y, x), centred at ``(ny // 2, nx // 2)``. The modes
            are stored strongest first.
        probe_axes
            Axis dictionaries of the probe, y and x, in Å.
        positions
            Array (J, 2) in Å: (y, x) of each probe's centre in the frame of `axes`.
        scan_shape
            (scan_y, scan_x).
        history
            Name to values by iteration; ``"error"`` is the one shown.
        parameters, geometry, versions
            Nested dictionaries of plain values. Tuples and arrays become lists.
        status
            ``"completed"``, ``"diverged"`` or ``"interrupted"``.
        seed
            Seed of the reconstruction.
        fingerprint
            SHA-256 of the data.
        notes
            Sentences on whatever was assumed or contradicted.
        tuning
            ``objective`` (its name), ``parameters`` (the tuned names), ``best_trial`` (its
            number), ``trials`` (list of dictionaries) or ``trials_json`` (the same, written),
            optionally ``space`` (name to ``{"low", "high", "log"}``), ``answers`` (what
            ``hs_autoptycho.tuning.answers.Answers.to_dict`` gives) or ``answers_json``, and
            anything plain besides. Non-finite numbers in the trials and answers become None.
        recording
            What a user said of how the data were taken: ``detector_mask``, ``background``,
            ``disk_center``, ``disk_radius``.
        found
            Arrays by name of what was reconstructed by position: ``variable_modes`` (as `probe`),
            their ``coefficients`` (J, modes), and the beam's ``brightness`` (J,).
        original_metadata_general
            ``metadata.General`` of the data, kept as the object's.

        Raises
        ------
        ValueError
            If shapes do not fit each other.
        TypeError
            If an entry has no plain form; the message names it.
        """
        data, probe = np.asarray(object), np.asarray(probe)
        data = data[np.newaxis] if data.ndim == 2 else data
        probe = probe[np.newaxis] if probe.ndim == 2 else probe
        positions = np.array(positions, dtype=float)
        if data.ndim != 3 or probe.ndim != 3:
            raise ValueError(
                "object and probe are (slices, y, x) and (modes, y, x), but have the shapes "
                f"{data.shape} and {probe.shape}"
            )
        if positions.shape != (int(np.prod(scan_shape)), 2):
            raise ValueError(
                f"positions of shape {positions.shape} do not fit the scan_shape "
                f"{tuple(scan_shape)}: (scan_y * scan_x, 2) is needed"
            )
        axes = [dict(axis) for axis in axes]
        if len(axes) == 2:
            axes.insert(0, {"name": "slice", "scale": 1.0, "offset": 0.0, "units": ""})
        if len(axes) != 3 or len(probe_axes) != 2:
            raise ValueError(
                f"axes has {len(axes)} entries and probe_axes {len(probe_axes)}; (slice,) y and x "
                "are needed for the object, y and x for the probe"
            )
        for axis, size, navigate in zip(axes, data.shape, (True, False, False), strict=True):
            axis.update(size=size, navigate=navigate)
        order = np.argsort(-(np.abs(probe) ** 2).sum(axis=(1, 2)), kind="stable")
        entry = {
            "probe": np.ascontiguousarray(probe[order], dtype=np.complex64),
            "probe_axes": {
                key: to_plain({k: axis.get(k) for k in ("scale", "offset", "units")}, key)
                for key, axis in zip(("y", "x"), probe_axes, strict=True)
            },
            "positions": positions,
            "scan_shape": to_plain(scan_shape),
            "history": {str(k): np.array(v, dtype=float) for k, v in history.items()},
            "parameters": to_plain(parameters, "parameters"),
            "geometry": to_plain(geometry, "geometry"),
            "status": str(status),
            "seed": to_plain(seed, "seed"),
            "versions": to_plain(versions, "versions"),
            "fingerprint": str(fingerprint),
            "notes": [str(note) for note in notes],
            **{name: np.array(values) for name, values in (found or {}).items()},
        }
        if recording:
            arrays = {k: v for k, v in recording.items() if isinstance(v, np.ndarray)}
            rest = {k: v for k, v in recording.items() if k not in arrays}
            entry["recording"] = {**to_plain(rest, "recording"), **arrays}
        if tuning is not None:
            tuning = dict(tuning)
            for name in ("trials", "answers"):
                if name in tuning:
                    tuning[f"{name}_json"] = to_json(tuning.pop(name), name)
            entry["tuning"] = to_plain(tuning, "tuning")
        general = to_plain(original_metadata_general or {}, "General")
        general["title"] = general.get("title") or "Ptychographic object"
        return cls(
            data.astype(np.complex64, copy=False),
            axes=axes,
            metadata={"General": general, "Ptychography": entry},
        )

    # --- what a user asks of it ---------------------------------------------------------------

    def _pixel(self) -> tuple[float, float]:
        """Pixel size (y, x) in Å, below 0 along an axis that is mirrored."""
        check_order(self)
        x, y = self.axes_manager.signal_axes
        return y.scale * angstroms(y), x.scale * angstroms(x)

    def _transmission(self, slice: int | None = None) -> np.ndarray:
        """Complex array (slices, y, x), of one slice or of all, in memory."""
        several = self.axes_manager.navigation_dimension - 1
        if several > 0:
            raise ValueError(
                f"there are several objects here, {self.axes_manager._get_dimension_str()}: choose "
                f"one, as obj.inav[:{', 0' * several}]"
            )
        stack = np.asarray(self.data).reshape(-1, *self.data.shape[-2:])
        if slice is None:
            return stack
        if not -len(stack) <= slice < len(stack):
            raise IndexError(f"slice {slice} was asked for, but the object has {len(stack)}")
        return stack[[slice]]

    def crop_to_scan(self, margin: float = 0) -> PtychographicObject:
        """Return the part of the object that the probe's centre visited.

        Parameters
        ----------
        margin
            Width in Å added on every side of the bounding box of the positions, as far as the
            object reaches; negative to cut further in.

        Returns
        -------
        PtychographicObject
            With the metadata and the calibration of the whole.

        Raises
        ------
        ValueError
            If fewer than two pixels of the object along an axis lie inside, or the axes y and x
            were exchanged.
        """
        check_order(self)
        window = []
        lows, highs = self.positions.min(axis=0), self.positions.max(axis=0)
        for axis, low, high in zip(self.axes_manager.signal_axes[::-1], lows, highs, strict=True):
            factor = angstroms(axis)
            ends = (low - margin, high + margin)
            if axis.scale < 0:  # mirrored
                ends = ends[::-1]
            first, last = ((end / factor - axis.offset) / axis.scale for end in ends)
            start = max(math.ceil(first - 1e-6), 0)
            stop = min(math.floor(last + 1e-6) + 1, axis.size)
            if stop - start < 2:
                raise ValueError(
                    f"the scanned field ({low:.4g} to {high:.4g} Å, margin {margin:g} Å) covers "
                    f"less than two pixels of the axis {axis.name}; a larger margin takes in more"
                )
            window.append((start, stop))
        (top, bottom), (left, right) = window
        return self.isig[left:right, top:bottom]

    def _scanned_phase(self, slice: int | None = None) -> tuple[PtychographicObject, np.ndarray]:
        """The object cropped to the scan, and its phase: nan where the probe's centre never was.

        A scan that is rotated fills only part of its bounding box, and what lies in the corners is
        noise.
        """
        field = self.crop_to_scan()
        positions = self.positions.reshape(*self.scan_shape, 2)
        steps = [np.hypot(*np.moveaxis(np.diff(positions, axis=a), -1, 0)) for a in (0, 1)]
        reach = max((float(np.median(s)) for s in steps if s.size), default=0.0)
        axes = field.axes_manager.signal_axes[::-1]
        starts = np.array([axis.offset * angstroms(axis) for axis in axes])
        places = np.rint((self.positions - starts) / field._pixel()).astype(int)
        shape = field.data.shape[-2:]
        missed = np.ones(shape, bool)
        missed[tuple(np.clip(places, 0, np.array(shape) - 1).T)] = False
        near = distance_transform_edt(missed, sampling=np.abs(field._pixel())) <= reach
        return field, object_phase(np.where(near, field._transmission(slice), np.nan))

    def fourier_magnitude(self, slice: int | None = None, window: bool = True) -> signals.Signal2D:
        """Magnitude of the Fourier transform of the phase over the scanned field.

        Parameters
        ----------
        slice
            Index of a slice; by default the phase is summed over all slices.
        window
            Multiply with a Hann window first, which keeps the edges of the field from drawing a
            cross through the spectrum, and widens every spot to about two pixels.

        Returns
        -------
        hyperspy.api.signals.Signal2D
            In rad (a wave of amplitude `a` gives two peaks of `a` / 2), axes in 1/Å, zero in the
            middle, the mean phase removed; mirrored where the object is. Show it with
            ``plot(norm="log")``.
        """
        field, phase = self._scanned_phase(slice)
        data = magnitude_spectrum(_without_gaps(phase), window)
        axes = []
        for name, size, pixel in zip(("ky", "kx"), data.shape, field._pixel(), strict=True):
            scale = 1 / (size * pixel)
            axis = {"name": name, "size": size, "scale": scale, "offset": -(size // 2) * scale}
            axes.append({**axis, "units": "1/Å", "navigate": False})
        title = f"Fourier magnitude({self.metadata.General.title})"
        return signals.Signal2D(data, axes=axes, metadata={"General": {"title": title}})

    def resolution(self) -> float:
        """Information limit in Å: the shortest period the object shows above its noise.

        From two independent halves of the data, when ``metadata.Ptychography.frc`` holds their
        Fourier ring correlation (``freq`` in 1/Å, ``values``): where it falls below the 1/2-bit
        threshold (van Heel and Schatz, J. Struct. Biol. 151, 250, 2005).

        From the object alone otherwise: the period of the outermost ring of the phase's power
        spectrum within the scanned field (Hann window, slices summed) that holds at least twice
        the power of the noise. The noise is the spectrum's level between 0.8 and 1 of the Nyquist
        frequency, taken to be the same at all frequencies.

        Returns
        -------
        float
            Å; nan where nothing stands above the noise.

        Notes
        -----
        A single object cannot tell signal from reproducible error: artefacts of the scan grid or
        of a wrong parameter count as information here, and noise that is not white shifts the
        limit. When the information reaches the edge of the detector no noise is seen, and the
        limit comes out too long. Compare objects of one data set with it, and use two
        halves to state a resolution.
        """
        if self.metadata.has_item("Ptychography.frc"):
            frc = self._stored("frc")
            limit = half_bit_limit(np.array(frc["freq"]), np.array(frc["values"]))
        else:
            field, phase = self._scanned_phase()
            limit = information_limit(_without_gaps(phase), np.abs(field._pixel()))
        return 1 / limit if limit > 0 else math.nan

    # HyperSpy's properties look the getters up through the instance; the results are no objects.

    def _get_real(self):
        return _untyped(super()._get_real())

    def _get_imag(self):
        return _untyped(super()._get_imag())

    def _get_amplitude(self):
        return _untyped(super()._get_amplitude())

    def _get_phase(self):
        return _untyped(super()._get_phase())

    def _unary_operator_ruler(self, op_name):
        result = super()._unary_operator_ruler(op_name)
        return result if result.data.dtype.kind == "c" else _untyped(result)  # abs() is real

    def fft(self, *args, **kwargs):
        return _untyped(super().fft(*args, **kwargs))

    fft.__doc__ = signals.ComplexSignal2D.fft.__doc__


class LazyPtychographicObject(PtychographicObject, signals.LazyComplexSignal2D):
    """A :class:`PtychographicObject` whose data are read when needed."""

    def compute(self, close_file=False, show_progressbar=None, **kwargs):
        # a file opened lazily leaves the arrays in the metadata in the file too
        if self.metadata.has_item("Ptychography"):
            entry = in_memory(self.metadata.Ptychography.as_dictionary())
            self.metadata.add_dictionary({"Ptychography": entry})
        super().compute(close_file=close_file, show_progressbar=show_progressbar, **kwargs)

    compute.__doc__ = signals.LazyComplexSignal2D.compute.__doc__


def _without_gaps(phase: np.ndarray) -> np.ndarray:
    """The phase with its mean where the scan did not go."""
    finite = np.isfinite(phase)
    return np.where(finite, phase, phase[finite].mean() if finite.any() else 0.0)


def _untyped(signal):
    signal.set_signal_type("")
    return signal

"""Numba kernels of the solver: one batch of positions at a time.

Complex arrays are *planes* (see :mod:`hs_autoptycho.ptycho.fft`): float32, the real part and then
the imaginary part. Each kernel shares out positions, probe classes or object rows among the threads
so that every number is added up by one thread in a fixed order: the result is the same, bit by bit,
for any number of threads.

A *class* is a group of positions whose fraction of a pixel is the same; they share a shifted probe.

Symbols: `P` probe, `O` object, ψ = P·O exit wave, Ψ its spectrum, χ = ψ_new − ψ the change that the
measured pattern asks for.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from hs_autoptycho.ptycho.fft import forward, inverse

_JIT = {"cache": True, "fastmath": True, "nogil": True, "error_model": "numpy"}

# A dark pixel has no phase of its own: below this amplitude (in units of the mean) the modulus
# constraint fades out, else float32 rounding noise would be amplified.
AMPLITUDE_FLOOR = np.float32(1e-2)

# ---------------------------------------------------------------------------------------------
# One row at a time: few pointers, so that LLVM vectorises


@njit(**_JIT)
def _multiply(out_re, out_im, a_re, a_im, b_re, b_im):
    for k in range(len(out_re)):
        out_re[k] = a_re[k] * b_re[k] - a_im[k] * b_im[k]
    for k in range(len(out_re)):
        out_im[k] = a_re[k] * b_im[k] + a_im[k] * b_re[k]


@njit(**_JIT)
def _add_conjugate_product(out_re, out_im, a_re, a_im, b_re, b_im):
    """``out += conj(a) b``"""
    for k in range(len(out_re)):
        out_re[k] += a_re[k] * b_re[k] + a_im[k] * b_im[k]
    for k in range(len(out_re)):
        out_im[k] += a_re[k] * b_im[k] - a_im[k] * b_re[k]


@njit(**_JIT)
def _add_squared(out, a_re, a_im):
    for k in range(len(out)):
        out[k] += a_re[k] * a_re[k] + a_im[k] * a_im[k]


@njit(**_JIT)
def _real_product(a_re, a_im, b_re, b_im):
    """Re ⟨a, b⟩"""
    total = np.float32(0)
    for k in range(len(a_re)):
        total += a_re[k] * b_re[k] + a_im[k] * b_im[k]
    return total


@njit(**_JIT)
def _exit_wave(wave, probe, object_, corner, rows, columns):
    """ψ = P·O at one position."""
    pixels = rows * columns
    y, x = corner
    for i in range(rows):
        a, b = i * columns, (i + 1) * columns
        _multiply(
            wave[a:b], wave[pixels + a : pixels + b],
            probe[a:b], probe[pixels + a : pixels + b],
            object_[0, y + i, x : x + columns], object_[1, y + i, x : x + columns],
        )  # fmt: skip


# ---------------------------------------------------------------------------------------------
# What the measured pattern asks for


@njit(**_JIT)
def _amplitude_factor(intensity, amplitude, norm):
    """Turn the model's intensity, in place, into χ's spectrum over Ψ.

    Returns Σ(√I_measured − √I)².
    """
    error = np.float32(0)
    root = np.float32(np.sqrt(norm))
    for k in range(len(intensity)):
        a = np.sqrt(intensity[k]) * root
        difference = amplitude[k] - a
        error += difference * difference
        intensity[k] = difference / (a + AMPLITUDE_FLOOR)
    return error


@njit(**_JIT)
def _poisson_factor(intensity, amplitude, norm):
    """The same for Poisson statistics: χ is a proximal step on the negative log-likelihood.

    The likelihood's own gradient, Ψ(1 − I_measured/I), has no bound where the model is dark. Its
    proximal operator has: the amplitude that minimises a² − 2 I_measured log a + ρ(a − a₀)² is
    (ρa₀ + √(ρ²a₀² + 4(1 + ρ) I_measured)) / 2(1 + ρ). Near the minimum it goes 2/(2 + ρ) of the
    way, which is made good. See H. Chang et al., SIAM J. Imaging Sci. 11, 24 (2018).
    """
    rho = np.float32(8)
    error = np.float32(0)
    root = np.float32(np.sqrt(norm))
    for k in range(len(intensity)):
        a = np.sqrt(intensity[k]) * root
        difference = amplitude[k] - a
        error += difference * difference
        square = rho * rho * a * a + 4 * (1 + rho) * amplitude[k] * amplitude[k]
        target = (rho * a + np.sqrt(square)) / (2 * (1 + rho))
        intensity[k] = (1 + rho / 2) * (target - a) / (a + AMPLITUDE_FLOOR)
    return error


@njit(parallel=True, **_JIT)
def exit_wave_changes(
    object_, probes, classes, corners, amplitudes, poisson, plan, waves, spectra, intensities,
    scratch, changes, errors,
):  # fmt: skip
    """χ of every position of a batch and mode, and the batch's errors.

    Parameters
    ----------
    object_ : float32 (2, Y, X)
    probes : float32 (classes, modes, 2 * pixels)
    classes : int64 (batch,)
        Which of `probes` each position uses.
    corners : int64 (batch, 2)
        The object pixel at the window's corner.
    amplitudes : float32 (batch, pixels)
        Square roots of the measured intensities, of mean square 1, in the order of the spectrum.
    poisson : bool
        The noise model.
    plan : Plan
    waves, spectra, intensities, scratch : float32 arrays
        Space for each thread: (threads, 2 * pixels), (threads, modes, 2 * pixels),
        (threads, pixels), (threads, scratch_size).
    changes : float32 (batch, modes, 2 * pixels)
        Receives χ.
    errors : float32 (batch,)
        Receives Σ(√I_measured − √I)².
    """
    threads = waves.shape[0]
    batch = len(classes)
    modes = probes.shape[1]
    rows, columns = plan.rows, plan.columns
    pixels = rows * columns
    norm = np.float32(1.0 / pixels)
    for t in prange(threads):
        wave, intensity, space = waves[t], intensities[t], scratch[t]
        for b in range(t * batch // threads, (t + 1) * batch // threads):
            intensity[:] = np.float32(0)
            for m in range(modes):
                _exit_wave(wave, probes[classes[b], m], object_, corners[b], rows, columns)
                spectrum = spectra[t, m]
                forward(wave, spectrum, plan, space)
                _add_squared(intensity, spectrum[:pixels], spectrum[pixels:])
            if poisson:
                errors[b] = _poisson_factor(intensity, amplitudes[b], norm)
            else:
                errors[b] = _amplitude_factor(intensity, amplitudes[b], norm)
            for m in range(modes):
                spectrum = spectra[t, m]
                for part in range(2):
                    half = spectrum[part * pixels : (part + 1) * pixels]
                    for k in range(pixels):
                        half[k] *= intensity[k] * norm
                inverse(spectrum, changes[b, m], plan, space)


@njit(parallel=True, **_JIT)
def model_intensities(object_, probes, classes, corners, plan, waves, spectra, scratch, out):
    """Intensities that the model predicts, in the spectrum's order, with mean 1 a pattern.

    Parameters as in :func:`exit_wave_changes`; `out` float32 (batch, pixels) receives the result.
    """
    threads = waves.shape[0]
    batch = len(classes)
    modes = probes.shape[1]
    rows, columns = plan.rows, plan.columns
    pixels = rows * columns
    norm = np.float32(1.0 / pixels)
    for t in prange(threads):
        wave, spectrum = waves[t], spectra[t, 0]
        for b in range(t * batch // threads, (t + 1) * batch // threads):
            out[b] = np.float32(0)
            for m in range(modes):
                _exit_wave(wave, probes[classes[b], m], object_, corners[b], rows, columns)
                forward(wave, spectrum, plan, scratch[t])
                _add_squared(out[b], spectrum[:pixels], spectrum[pixels:])
            for k in range(pixels):
                out[b, k] *= norm


# ---------------------------------------------------------------------------------------------
# Probes: shifted by a fraction of a pixel, and their gradient


@njit(**_JIT)
def _turn(out, spectrum, ramp_rows, ramp_columns, sign):
    """Multiply a spectrum (in the plan's order) by a separable phase ramp."""
    rows, columns = ramp_rows.shape[1], ramp_columns.shape[1]
    pixels = rows * columns
    for i in range(columns):
        c, s = ramp_columns[0, i], sign * ramp_columns[1, i]
        re, im = spectrum[i * rows : (i + 1) * rows], spectrum[pixels + i * rows :]
        out_re, out_im = out[i * rows : (i + 1) * rows], out[pixels + i * rows :]
        for k in range(rows):
            ramp_re = c * ramp_rows[0, k] - s * sign * ramp_rows[1, k]
            ramp_im = c * sign * ramp_rows[1, k] + s * ramp_rows[0, k]
            a, b = re[k], im[k]
            out_re[k] = a * ramp_re - b * ramp_im
            out_im[k] = a * ramp_im + b * ramp_re


@njit(parallel=True, **_JIT)
def shift_probes(spectra, ramps_rows, ramps_columns, plan, waves, scratch, out):
    """Probes moved by each class's fraction of a pixel.

    Parameters
    ----------
    spectra : float32 (modes, 2 * pixels)
        Spectra of the probes in the plan's order.
    ramps_rows, ramps_columns : float32 (classes, 2, rows), (classes, 2, columns)
        cos and sin of the phase ramp along each axis, in the plan's order.
    out : float32 (classes, modes, 2 * pixels)
    """
    threads = waves.shape[0]
    modes = spectra.shape[0]
    pixels = plan.rows * plan.columns
    norm = np.float32(1.0 / pixels)
    items = len(ramps_rows) * modes
    for t in prange(threads):
        for item in range(t * items // threads, (t + 1) * items // threads):
            c, m = item // modes, item % modes
            wave = waves[t]
            _turn(wave, spectra[m], ramps_rows[c], ramps_columns[c], np.float32(1))
            probe = out[c, m]
            inverse(wave, probe, plan, scratch[t])
            for k in range(2 * pixels):
                probe[k] *= norm


@njit(parallel=True, **_JIT)
def probe_gradient(
    changes, object_, starts, corners, ramps_rows, ramps_columns, plan, waves, spectra, scratch,
    by_class, out,
):  # fmt: skip
    """Spectrum of Σ conj(O) χ, brought back to a probe without a fractional shift.

    Parameters
    ----------
    changes : float32 (batch, modes, 2 * pixels)
        χ, sorted by class.
    starts : int64 (classes + 1,)
        Where each class's positions begin.
    by_class : float32 (classes, modes, 2 * pixels)
        Space.
    out : float32 (modes, 2 * pixels)
    """
    threads = waves.shape[0]
    modes = changes.shape[1]
    rows, columns = plan.rows, plan.columns
    pixels = rows * columns
    classes = len(starts) - 1
    items = classes * modes
    for t in prange(threads):
        for item in range(t * items // threads, (t + 1) * items // threads):
            c, m = item // modes, item % modes
            wave = waves[t]
            wave[:] = np.float32(0)
            for n in range(starts[c], starts[c + 1]):
                y, x = corners[n]
                for i in range(rows):
                    a, b = i * columns, (i + 1) * columns
                    _add_conjugate_product(
                        wave[a:b], wave[pixels + a : pixels + b],
                        object_[0, y + i, x : x + columns], object_[1, y + i, x : x + columns],
                        changes[n, m, a:b], changes[n, m, pixels + a : pixels + b],
                    )  # fmt: skip
            forward(wave, spectra[t, 0], plan, scratch[t])
            _turn(by_class[c, m], spectra[t, 0], ramps_rows[c], ramps_columns[c], np.float32(-1))
    for i in prange(columns):
        for m in range(modes):
            for part in range(2):
                a = part * pixels + i * rows
                total = out[m, a : a + rows]
                total[:] = np.float32(0)
                for c in range(classes):
                    term = by_class[c, m, a : a + rows]
                    for k in range(rows):
                        total[k] += term[k]


# ---------------------------------------------------------------------------------------------
# Object: gradient, direction, step


@njit(parallel=True, **_JIT)
def object_gradient(changes, probes, classes, corners, plan, gradient):
    """Σ conj(P) χ over a batch, on the object's grid: `gradient`, float32 (2, Y, X)."""
    rows, columns = plan.rows, plan.columns
    pixels = rows * columns
    modes = changes.shape[1]
    for y in prange(gradient.shape[1]):
        gradient[0, y] = np.float32(0)
        gradient[1, y] = np.float32(0)
        for n in range(len(classes)):
            i = y - corners[n, 0]
            if 0 <= i < rows:
                x = corners[n, 1]
                a, b = i * columns, (i + 1) * columns
                for m in range(modes):
                    probe = probes[classes[n], m]
                    p_re, p_im = probe[a:b], probe[pixels + a : pixels + b]
                    _add_conjugate_product(
                        gradient[0, y, x : x + columns], gradient[1, y, x : x + columns],
                        p_re, p_im, changes[n, m, a:b], changes[n, m, pixels + a : pixels + b],
                    )  # fmt: skip


@njit(parallel=True, **_JIT)
def divide_by_illumination(gradient, illumination, damping):
    """``gradient / (illumination + damping)``, in place."""
    for y in prange(gradient.shape[1]):
        weight = illumination[y]
        for part in range(2):
            row = gradient[part, y]
            for k in range(len(row)):
                row[k] /= weight[k] + damping


@njit(parallel=True, **_JIT)
def add_scaled(array, direction, step):
    """``array += step * direction`` for arrays of shape (2, Y, X)."""
    for y in prange(array.shape[1]):
        for part in range(2):
            row, change = array[part, y], direction[part, y]
            for k in range(len(row)):
                row[k] += step * change[k]


@njit(parallel=True, **_JIT)
def line_search_terms(
    changes, object_, object_direction, probes, probe_directions, classes, corners, plan, waves,
    terms,
):  # fmt: skip
    """Inner products of the least-squares problem min ‖χ − a·ΔO·P − b·ΔP·O‖² of each position.

    Parameters
    ----------
    object_direction : float32 (2, Y, X)
        ΔO.
    probe_directions : float32 (classes, modes, 2 * pixels)
        ΔP, shifted as the probes are; an array of length 0 where the probe is held.
    waves : float32 (threads, 2 * pixels)
        Space.
    terms : float64 (batch, 5)
        Receives ⟨ΔO P, ΔO P⟩, ⟨ΔP O, ΔP O⟩, ⟨ΔO P, ΔP O⟩, ⟨ΔO P, χ⟩, ⟨ΔP O, χ⟩ (real parts).
    """
    rows, columns = plan.rows, plan.columns
    pixels = rows * columns
    modes = changes.shape[1]
    batch = len(classes)
    threads = waves.shape[0]
    with_probe = len(probe_directions) > 0
    for t in prange(threads):
        row = waves[t]
        u_re, u_im = row[:columns], row[columns : 2 * columns]
        for n in range(t * batch // threads, (t + 1) * batch // threads):
            terms[n] = 0.0
            y, x = corners[n]
            for m in range(modes):
                probe = probes[classes[n], m]
                change = changes[n, m]
                for i in range(rows):
                    a, b = i * columns, (i + 1) * columns
                    c, d = pixels + a, pixels + b
                    z_re, z_im = change[a:b], change[c:d]
                    _multiply(
                        u_re, u_im, probe[a:b], probe[c:d],
                        object_direction[0, y + i, x : x + columns],
                        object_direction[1, y + i, x : x + columns],
                    )  # fmt: skip
                    terms[n, 0] += _real_product(u_re, u_im, u_re, u_im)
                    terms[n, 3] += _real_product(u_re, u_im, z_re, z_im)
                    if with_probe:
                        v_re, v_im = row[2 * columns : 3 * columns], row[3 * columns : 4 * columns]
                        direction = probe_directions[classes[n], m]
                        _multiply(
                            v_re, v_im, direction[a:b], direction[c:d],
                            object_[0, y + i, x : x + columns],
                            object_[1, y + i, x : x + columns],
                        )  # fmt: skip
                        terms[n, 1] += _real_product(v_re, v_im, v_re, v_im)
                        terms[n, 2] += _real_product(u_re, u_im, v_re, v_im)
                        terms[n, 4] += _real_product(v_re, v_im, z_re, z_im)


# ---------------------------------------------------------------------------------------------
# Measured counts


@njit(parallel=True, **_JIT)
def batch_amplitudes(patterns, indices, scale, out):
    """Square roots of the counts of some patterns times `scale`."""
    for n in prange(len(indices)):
        pattern, amplitude = patterns[indices[n]], out[n]
        for k in range(len(amplitude)):
            amplitude[k] = np.sqrt(np.float32(pattern[k]) * scale)


@njit(parallel=True, **_JIT)
def poisson_deviance(predicted, counts, indices, scale, floor, out):
    """Σ 2[n log(n/μ) − (n − μ)] of each pattern, with μ = predicted · scale + floor.

    Parameters
    ----------
    predicted : float32 (batch, pixels)
    counts : integer (positions, pixels)
    indices : int64 (batch,)
        Which of `counts` each of `predicted` belongs to.
    out : float64 (batch,)
    """
    for n in prange(len(indices)):
        model, measured = predicted[n], counts[indices[n]]
        total = 0.0
        for k in range(len(model)):
            mean = model[k] * scale + floor
            count = np.float32(measured[k])
            total += mean - count
            if count > 0:
                total += count * np.log(count / mean)
        out[n] = 2.0 * total

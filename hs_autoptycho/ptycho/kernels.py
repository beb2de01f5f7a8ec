"""The kernel that visits positions: from the probe to the gradients, one position at a time.

Complex arrays are *planes* (see :mod:`hs_autoptycho.ptycho.fft`): float32, the real part and then
the imaginary part. One thread takes a position from the probe to the gradients, so that all of its
arrays stay in the second cache.

The positions of a batch are shared out among *groups*, each with gradients of its own; a thread
takes one group after the other, and the groups are added up in a fixed order. How many there are
depends on the batch alone, so that the result is the same, bit by bit, for any number of threads.

A *class* is a group of positions whose fraction of a pixel is the same; they share a shifted probe.

Symbols: `P` probe, `O` object, ψ exit wave, Ψ its spectrum, χ the change of ψ that the measured
pattern asks for (:mod:`.detector`), H the propagator from one slice to the next.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit, prange

from hs_autoptycho.ptycho.arithmetic import (
    EXACT,
    JIT,
    add,
    add_conjugate_product,
    add_squared,
    clear,
    copy,
    dot_imaginary,
    dot_real,
    multiply,
    multiply_by_conjugate,
    row_total,
    scale,
    turn,
    turn_back,
)
from hs_autoptycho.ptycho.detector import blur, pattern_factor
from hs_autoptycho.ptycho.fft import forward, inverse


class Scene(NamedTuple):
    """The model.

    Attributes
    ----------
    object : float32 (slices, 2, Y, X)
    probes : float32 (modes + variable modes, 2 * pixels)
        Spectra of the probe's modes, in the plan's order, and then of the variable modes, which
        change the first mode from position to position.
    n_modes : int
    propagators : float32 (distances, 2 * pixels)
        H divided by the number of pixels, in the order of the spectrum.
    propagator_factors : float32 (distances, 3, pixels)
        f of the derivatives ∂H/∂p = i f H with respect to the thickness's scale and both tilts.
    distances : int64 (slices - 1,)
        Which propagator follows each slice but the last.
    row_frequencies, column_frequencies : float32 (rows,), (columns,)
        Cycles a pixel, in the order of the spectrum.
    """

    object: np.ndarray
    probes: np.ndarray
    n_modes: int
    propagators: np.ndarray
    propagator_factors: np.ndarray
    distances: np.ndarray
    row_frequencies: np.ndarray
    column_frequencies: np.ndarray


class Visit(NamedTuple):
    """The positions of a batch, those of a class one after the other.

    Attributes
    ----------
    indices : int64 (batch,)
        Which patterns.
    corners : int64 (batch, 2)
        The object pixel at the window's corner.
    classes : int64 (batch,)
    ramps_rows, ramps_columns : float32 (classes, 2, rows), (classes, 2, columns)
        cos and sin of the phase ramp of each class's fraction of a pixel, divided by the number of
        pixels along the axis.
    coefficients : float32 (batch, variable modes)
    brightness : float32 (batch,)
    starts : int64 (groups + 1,)
        Where each group's positions begin.
    bands : int64 (groups, 2)
        The object's rows that each group sees.
    """

    indices: np.ndarray
    corners: np.ndarray
    classes: np.ndarray
    ramps_rows: np.ndarray
    ramps_columns: np.ndarray
    coefficients: np.ndarray
    brightness: np.ndarray
    starts: np.ndarray
    bands: np.ndarray


class Space(NamedTuple):
    """Working memory, a row a thread: see :func:`hs_autoptycho.ptycho.state.make_space`."""

    waves: np.ndarray  # (threads, 2 * pixels)
    probes: np.ndarray  # (threads, modes, 2 * pixels): shifted
    probe_gradients: np.ndarray  # (threads, modes, 2 * pixels)
    spectra: np.ndarray  # (threads, modes, 2 * pixels)
    incoming: np.ndarray  # (threads, modes, slices - 1, 2 * pixels): waves before a slice
    passing: np.ndarray  # the same or (threads, modes, 0, 0): spectra behind a propagator
    intensities: np.ndarray  # (threads, pixels)
    spare: np.ndarray  # (threads, 2 * pixels) or (threads, 0)
    chunks: np.ndarray  # (threads, 2, CHUNK)
    scratch: np.ndarray  # (threads, scratch_size)


class Gradients(NamedTuple):
    """What a visit leaves behind. Gradients point downhill: they are sums of conj(·) χ.

    Attributes
    ----------
    object : float32 (groups, slices, 2, Y, X)
    probes : float32 (groups, modes + variable modes, 2 * pixels)
        Spectra, brought back to no fraction of a pixel.
    sums : float64 (batch, 3)
        Σ(A − a)², Σ A a and Σ a² of each pattern.
    positions : float64 (batch, 2)
        Re⟨χ, ∂ψ/∂r⟩ / 2π for a shift r in pixels; only where each position is its own class.
    coefficients : float64 (batch, variable modes)
        Re⟨χ, ∂ψ/∂c⟩; likewise.
    propagation : float64 (batch, 3)
        Re⟨χ, ∂ψ/∂p⟩ for the thickness's scale and both tilts; only where `passing` has a length.
    predicted : float32 (batch, pixels) or (0, 0)
        The model's intensities, of mean 1 a pixel; where it has a length, nothing else but the
        sums is computed.
    """

    object: np.ndarray
    probes: np.ndarray
    sums: np.ndarray
    positions: np.ndarray
    coefficients: np.ndarray
    propagation: np.ndarray
    predicted: np.ndarray


@njit(**JIT)
def _through(wave, incoming, slice_, corner, rows, columns):
    """ψ = incoming · O of one slice, at one position."""
    pixels = rows * columns
    y, x = corner
    for i in range(rows):
        a, b = i * columns, (i + 1) * columns
        multiply(
            wave[a:b], wave[pixels + a : pixels + b],
            incoming[a:b], incoming[pixels + a : pixels + b],
            slice_[0, y + i, x : x + columns], slice_[1, y + i, x : x + columns],
        )  # fmt: skip


@njit(**JIT)
def _back_through(change, incoming, slice_, gradient, corner, rows, columns):
    """Add conj(incoming) χ to a slice's gradient, and turn χ into conj(O) χ."""
    pixels = rows * columns
    y, x = corner
    for i in range(rows):
        a, b = i * columns, (i + 1) * columns
        re, im = change[a:b], change[pixels + a : pixels + b]
        add_conjugate_product(
            gradient[0, y + i, x : x + columns], gradient[1, y + i, x : x + columns],
            incoming[a:b], incoming[pixels + a : pixels + b], re, im,
        )  # fmt: skip
        multiply_by_conjugate(
            slice_[0, y + i, x : x + columns], slice_[1, y + i, x : x + columns], re, im
        )


@njit(**JIT)
def _propagate(spectrum, propagator, sign):
    """Multiply a spectrum by H (`sign` 1) or conj(H) (−1), in place."""
    pixels = len(spectrum) // 2
    re, im = spectrum[:pixels], spectrum[pixels:]
    h_re, h_im = propagator[:pixels], propagator[pixels:]
    for k in range(pixels):
        a, b, c, d = re[k], im[k], h_re[k], sign * h_im[k]
        re[k] = a * c - b * d
        im[k] = a * d + b * c


@njit(**JIT)
def _modulate(spectrum, factor):
    """Ψ f, in place."""
    pixels = len(factor)
    for part in range(2):
        half = spectrum[part * pixels : (part + 1) * pixels]
        for k in range(pixels):
            half[k] *= factor[k]


@njit(**JIT)
def _shift_probe(scene, visit, n, spectrum, probes, plan, scratch):
    """The modes at the fraction of a pixel of position n, with its variable modes."""
    rows, columns = plan.rows, plan.columns
    pixels = rows * columns
    class_ = visit.classes[n]
    ramp_rows, ramp_columns = visit.ramps_rows[class_], visit.ramps_columns[class_]
    for m in range(scene.n_modes):
        source = scene.probes[m]
        if m == 0 and scene.probes.shape[0] > scene.n_modes:
            changed = probes[0]
            copy(changed, source)
            for v in range(scene.n_modes, scene.probes.shape[0]):
                c = visit.coefficients[n, v - scene.n_modes]
                mode = scene.probes[v]
                for k in range(2 * pixels):
                    changed[k] += c * mode[k]
            source = changed
        for i in range(columns):
            a, b = i * rows, (i + 1) * rows
            turn(
                spectrum[a:b], spectrum[pixels + a : pixels + b],
                source[a:b], source[pixels + a : pixels + b],
                ramp_rows, ramp_columns[0, i], ramp_columns[1, i],
            )  # fmt: skip
        inverse(spectrum, probes[m], plan, scratch)


@njit(**JIT)
def _collect_probe_gradient(scene, visit, n, own, gradients, spectrum, out, g, plan, scratch):
    """Bring conj(O) χ of a class back to no fraction of a pixel and add it to the group's.

    With `own` the class is the position n alone, whose derivatives are taken on the way.
    """
    rows, columns = plan.rows, plan.columns
    pixels = rows * columns
    class_ = visit.classes[n]
    ramp_rows, ramp_columns = visit.ramps_rows[class_], visit.ramps_columns[class_]
    norm = np.float32(rows * columns)  # the ramps are divided by it
    n_variable = scene.probes.shape[0] - scene.n_modes
    if own:
        clear(out.positions[n])
        clear(out.coefficients[n])
    for m in range(scene.n_modes):
        forward(gradients[m], spectrum, plan, scratch)
        total = out.probes[g, m]
        for i in range(columns):
            a, b = i * rows, (i + 1) * rows
            c, d = pixels + a, pixels + b
            turn_back(
                spectrum[a:b], spectrum[c:d], spectrum[a:b], spectrum[c:d],
                ramp_rows, norm * ramp_columns[0, i], norm * ramp_columns[1, i],
            )  # fmt: skip
            add(total[a:b], spectrum[a:b])
            add(total[c:d], spectrum[c:d])
            if own:
                # ∂P/∂r = −2πi κ P, so that Re⟨χ, ∂ψ/∂r⟩ = 2π Σ κ Im(conj(Ĝ) P)
                mode = scene.probes[m]
                plain, weighted = dot_imaginary(
                    spectrum[a:b], spectrum[c:d], mode[a:b], mode[c:d], scene.row_frequencies
                )
                out.positions[n, 0] += weighted
                out.positions[n, 1] += scene.column_frequencies[i] * plain
        if own and m == 0:
            for v in range(n_variable):
                mode = scene.probes[scene.n_modes + v]
                coefficient = visit.coefficients[n, v]
                variable = out.probes[g, scene.n_modes + v]
                for i in range(columns):
                    a, b = i * rows, (i + 1) * rows
                    c, d = pixels + a, pixels + b
                    plain, weighted = dot_imaginary(
                        spectrum[a:b], spectrum[c:d], mode[a:b], mode[c:d], scene.row_frequencies
                    )
                    out.positions[n, 0] += coefficient * weighted
                    out.positions[n, 1] += coefficient * scene.column_frequencies[i] * plain
                    out.coefficients[n, v] += dot_real(
                        mode[a:b], mode[c:d], spectrum[a:b], spectrum[c:d]
                    )
                for k in range(2 * pixels):
                    variable[k] += coefficient * spectrum[k]
    if own:
        scale(out.positions[n], 1.0 / pixels)
        scale(out.coefficients[n], 1.0 / pixels)


@njit(**JIT)
def _add_propagation_terms(passing, change, factors, out):
    """Add −Σ f Im(conj(Z) S) for each of three factors f: Re⟨Z, i f S⟩."""
    pixels = len(passing) // 2
    for p in range(3):
        _, weighted = dot_imaginary(
            change[:pixels], change[pixels:], passing[:pixels], passing[pixels:], factors[p]
        )
        out[p] -= weighted


@njit(**JIT)
def _model(scene, visit, n, space, t, plan):
    """Spectra of the exit waves of all modes, and the sum of their intensities, at a position."""
    rows, columns = plan.rows, plan.columns
    pixels = rows * columns
    wave, scratch, intensity = space.waves[t], space.scratch[t], space.intensities[t]
    keep = space.passing.shape[2] > 0
    clear(intensity)
    for m in range(scene.n_modes):
        spectrum = space.spectra[t, m]
        _through(wave, space.probes[t, m], scene.object[0], visit.corners[n], rows, columns)
        for s in range(1, scene.object.shape[0]):
            forward(wave, spectrum, plan, scratch)
            _propagate(spectrum, scene.propagators[scene.distances[s - 1]], np.float32(1))
            if keep:
                copy(space.passing[t, m, s - 1], spectrum)
            incoming = space.incoming[t, m, s - 1]
            inverse(spectrum, incoming, plan, scratch)
            _through(wave, incoming, scene.object[s], visit.corners[n], rows, columns)
        forward(wave, spectrum, plan, scratch)
        add_squared(intensity, spectrum[:pixels], spectrum[pixels:])


@njit(**JIT)
def _back_propagate(scene, visit, n, space, t, g, plan, out):
    """From the detector's factor back to the gradients of object and (class's) probe."""
    rows, columns = plan.rows, plan.columns
    wave, scratch = space.waves[t], space.scratch[t]
    corner = visit.corners[n]
    keep = space.passing.shape[2] > 0
    if keep:
        clear(out.propagation[n])
    for m in range(scene.n_modes):
        spectrum = space.spectra[t, m]
        _modulate(spectrum, space.intensities[t])
        inverse(spectrum, wave, plan, scratch)
        for s in range(scene.object.shape[0] - 1, 0, -1):
            _back_through(
                wave, space.incoming[t, m, s - 1], scene.object[s], out.object[g, s], corner,
                rows, columns,
            )  # fmt: skip
            forward(wave, spectrum, plan, scratch)
            distance = scene.distances[s - 1]
            if keep:
                _add_propagation_terms(
                    space.passing[t, m, s - 1], spectrum, scene.propagator_factors[distance],
                    out.propagation[n],
                )  # fmt: skip
            _propagate(spectrum, scene.propagators[distance], np.float32(-1))
            inverse(spectrum, wave, plan, scratch)
        _back_through(
            wave, space.probes[t, m], scene.object[0], out.object[g, 0], corner, rows, columns
        )
        add(space.probe_gradients[t, m], wave)


@njit(**JIT)
def _visit_group(scene, visit, detector, g, own, space, t, plan, out):
    """All positions of a group, one after the other."""
    predict = out.predicted.shape[0] > 0
    if not predict:
        for s in range(out.object.shape[1]):
            for part in range(2):
                for y in range(visit.bands[g, 0], visit.bands[g, 1]):
                    clear(out.object[g, s, part, y])
        for m in range(out.probes.shape[1]):
            clear(out.probes[g, m])
    first, last = visit.starts[g], visit.starts[g + 1]
    for n in range(first, last):
        if n == first or visit.classes[n] != visit.classes[n - 1]:
            _shift_probe(
                scene, visit, n, space.spectra[t, 0], space.probes[t], plan, space.scratch[t]
            )
            for m in range(scene.n_modes):
                clear(space.probe_gradients[t, m])
        _model(scene, visit, n, space, t, plan)
        if predict:
            _predict(detector, n, space, t, plan, visit.brightness[n], out.predicted[n])
            continue
        pattern_factor(
            space.intensities[t], detector, visit.indices[n], visit.brightness[n], plan,
            space.waves[t], space.spare[t], space.scratch[t], space.chunks[t], out.sums[n],
        )  # fmt: skip
        _back_propagate(scene, visit, n, space, t, g, plan, out)
        if n == last - 1 or visit.classes[n + 1] != visit.classes[n]:
            _collect_probe_gradient(
                scene, visit, n, own, space.probe_gradients[t], space.spectra[t, 0], out, g, plan,
                space.scratch[t],
            )  # fmt: skip


@njit(**JIT)
def _predict(detector, n, space, t, plan, brightness, out):
    """The intensity on the detector, of mean 1 a pixel."""
    intensity = space.intensities[t]
    if len(detector.transfer) > 0:
        blur(
            intensity, detector.transfer, plan, space.waves[t], space.spare[t], space.scratch[t]
        )  # fmt: skip
    norm = brightness / np.float32(len(out))
    for k in range(len(out)):
        out[k] = max(intensity[k], np.float32(0)) * norm + detector.background[k]


@njit(parallel=True, **JIT)
def visit_positions(scene, visit, detector, own, space, plan, out):
    """Gradients of a batch of positions, or what the model predicts for it.

    Parameters
    ----------
    scene : Scene
    visit : Visit
    detector : Detector
    own : bool
        Whether each position is its own class, so that its derivatives can be taken.
    space : Space
    plan : Plan
    out : Gradients
        Is filled in.
    """
    threads = space.waves.shape[0]
    groups = len(visit.starts) - 1
    for thread in prange(threads):
        t = np.int64(thread)  # prange's own type would have everything compiled a second time
        for g in range(t * groups // threads, (t + 1) * groups // threads):
            _visit_group(scene, visit, detector, g, own, space, t, plan, out)


# ---------------------------------------------------------------------------------------------
# From gradients to steps: each object row belongs to one thread


@njit(parallel=True, **JIT)
def add_groups(groups, bands, out):
    """Add up the groups' object gradients: ``out``, float32 (slices, 2, Y, X)."""
    for y in prange(out.shape[2]):
        for s in range(out.shape[0]):
            for part in range(2):
                row = out[s, part, y]
                clear(row)
                for g in range(len(bands)):
                    if bands[g, 0] <= y < bands[g, 1]:
                        add(row, groups[g, s, part, y])


@njit(parallel=True, **EXACT)
def object_direction(gradient, weight, damping, products):
    """Divide a gradient, in place, by ``weight + damping``.

    `gradient` is float32 (slices, 2, Y, X), `weight` float32 (Y, X); `products`, float64
    (slices, Y), receives Σ direction · gradient of each slice and row.
    """
    for y in prange(gradient.shape[2]):
        terms = np.empty(gradient.shape[3], np.float32)
        for s in range(gradient.shape[0]):
            products[s, y] = 0.0
            for part in range(2):
                row = gradient[s, part, y]
                for k in range(len(row)):
                    direction = row[k] / (weight[y, k] + damping)
                    terms[k] = direction * row[k]
                    row[k] = direction
                products[s, y] += row_total(terms)


@njit(parallel=True, **JIT)
def add_windows(windows, corners, out):
    """Sum of windows (planes, rows, columns) at all positions: ``out``, (planes, Y, X)."""
    rows, columns = windows.shape[1:]
    for y in prange(out.shape[1]):
        for p in range(out.shape[0]):
            total = out[p, y]
            clear(total)
            for n in range(len(corners)):
                i = y - corners[n, 0]
                if 0 <= i < rows:
                    x = corners[n, 1]
                    add(total[x : x + columns], windows[p, i])


@njit(parallel=True, **EXACT)
def line_search_terms(object_, direction, windows, terms):
    """Sums over the object of the least-squares problem of a step along two directions.

    With the windows' sums w = Σ|P|², q = Σ conj(P) ΔP and v = Σ|ΔP|² (:func:`add_windows`), the
    change of the exit waves, a ΔO P + b ΔP O, has the square a² Σ w|ΔO|² + 2ab Re Σ conj(ΔO) O q +
    b² Σ v|O|². The changes of several slices add up, each turned back by its slice's own phase.

    Parameters
    ----------
    object_, direction : float32 (slices, 2, Y, X)
    windows : float32 (4, Y, X)
        w, Re q, Im q, v.
    terms : float64 (Y, 3)
        Receives the three sums by row.
    """
    slices = object_.shape[0]
    for y in prange(object_.shape[2]):
        w, q_re, q_im, v = windows[0, y], windows[1, y], windows[2, y], windows[3, y]
        rows = np.empty((3, len(w)), np.float32)
        first, second, third = rows[0], rows[1], rows[2]
        for k in range(len(w)):
            d_re, d_im, power = np.float32(0), np.float32(0), np.float32(1)
            for s in range(slices):
                a, b = object_[s, 0, y, k], object_[s, 1, y, k]
                c, d = direction[s, 0, y, k], direction[s, 1, y, k]
                square = a * a + b * b + np.float32(1e-12)
                turned = np.float32(1) / np.sqrt(square)  # ΔO without the phase of O
                d_re += (a * c + b * d) * turned
                d_im += (a * d - b * c) * turned
                power *= square
            first[k] = w[k] * (d_re * d_re + d_im * d_im)
            second[k] = np.sqrt(power) * (d_re * q_re[k] + d_im * q_im[k])
            third[k] = power * v[k]
        terms[y, 0], terms[y, 1] = row_total(first), row_total(second)
        terms[y, 2] = row_total(third)


@njit(parallel=True, **JIT)
def add_scaled(array, direction, step):
    """``array += step * direction`` for arrays (slices, 2, Y, X)."""
    for y in prange(array.shape[2]):
        for s in range(array.shape[0]):
            for part in range(2):
                row, change = array[s, part, y], direction[s, part, y]
                for k in range(len(row)):
                    row[k] += step * change[k]


@njit(parallel=True, **JIT)
def keep_phase(array):
    """``O / |O|``, in place, for an object (slices, 2, Y, X)."""
    for y in prange(array.shape[2]):
        for s in range(array.shape[0]):
            re, im = array[s, 0, y], array[s, 1, y]
            for k in range(len(re)):
                norm = np.float32(1) / np.sqrt(re[k] * re[k] + im[k] * im[k] + np.float32(1e-20))
                re[k] *= norm
                im[k] *= norm


# ---------------------------------------------------------------------------------------------
# Measured counts


@njit(parallel=True, **EXACT)
def poisson_deviance(predicted, counts, indices, scale, floor, mask, out):
    """Σ 2[n log(n/μ) − (n − μ)] of each pattern, with μ = predicted · scale + floor.

    Parameters
    ----------
    predicted : float32 (batch, pixels)
    counts : number (positions, pixels)
    indices : int64 (batch,)
        Which of `counts` each of `predicted` belongs to.
    mask : float32 (pixels,)
        1 where a pixel is used, else 0.
    out : float64 (batch,)
    """
    for n in prange(len(indices)):
        model, measured = predicted[n], counts[indices[n]]
        deviance = 0.0
        for k in range(len(model)):
            mean = model[k] * scale + floor
            count = np.float32(measured[k])
            part = mean - count
            if count > 0:
                part += count * np.log(count / mean)
            deviance += mask[k] * part
        out[n] = 2.0 * deviance

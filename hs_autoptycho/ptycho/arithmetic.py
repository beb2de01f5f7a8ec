"""Arithmetic on rows of complex numbers whose real and imaginary parts are separate float32 arrays.

One row at a time, few pointers: so LLVM vectorises the loops.
"""

from __future__ import annotations

import numpy as np
from numba import njit

JIT = {"cache": True, "fastmath": True, "nogil": True, "error_model": "numpy"}
# For sums in parallel loops. What a process has just compiled is not optimised as often as what it
# reads from the cache, and sums whose order is left to the compiler differ in their last digits.
EXACT = {**JIT, "fastmath": False}


@njit(**JIT)
def clear(out):
    """``out = 0``; the loop compiles several times faster than ``out[:] = 0``."""
    for k in range(len(out)):
        out[k] = 0


@njit(**JIT)
def copy(out, a):
    """``out = a``"""
    for k in range(len(out)):
        out[k] = a[k]


@njit(**JIT)
def multiply(out_re, out_im, a_re, a_im, b_re, b_im):
    """``out = a b``; `out` is neither of them."""
    for k in range(len(out_re)):
        out_re[k] = a_re[k] * b_re[k] - a_im[k] * b_im[k]
    for k in range(len(out_re)):
        out_im[k] = a_re[k] * b_im[k] + a_im[k] * b_re[k]


@njit(**JIT)
def add_conjugate_product(out_re, out_im, a_re, a_im, b_re, b_im):
    """``out += conj(a) b``"""
    for k in range(len(out_re)):
        out_re[k] += a_re[k] * b_re[k] + a_im[k] * b_im[k]
    for k in range(len(out_re)):
        out_im[k] += a_re[k] * b_im[k] - a_im[k] * b_re[k]


@njit(**JIT)
def multiply_by_conjugate(a_re, a_im, b_re, b_im):
    """``b = conj(a) b``, in place."""
    for k in range(len(b_re)):
        real = a_re[k] * b_re[k] + a_im[k] * b_im[k]
        b_im[k] = a_re[k] * b_im[k] - a_im[k] * b_re[k]
        b_re[k] = real


@njit(**JIT)
def add_squared(out, a_re, a_im):
    """``out += |a|²``"""
    for k in range(len(out)):
        out[k] += a_re[k] * a_re[k] + a_im[k] * a_im[k]


@njit(**JIT)
def add(out, a):
    """``out += a``"""
    for k in range(len(out)):
        out[k] += a[k]


@njit(**JIT)
def scale(a, factor):
    """``a *= factor``"""
    for k in range(len(a)):
        a[k] *= factor


@njit(**JIT)
def turn(out_re, out_im, a_re, a_im, ramp, c, s):
    """``out = a · ramp · (c + i s)`` for a `ramp` of shape (2, n): a separable phase ramp's row."""
    r, i = ramp[0], ramp[1]
    for k in range(len(a_re)):
        ramp_re = c * r[k] - s * i[k]
        ramp_im = c * i[k] + s * r[k]
        re, im = a_re[k], a_im[k]
        out_re[k] = re * ramp_re - im * ramp_im
        out_im[k] = re * ramp_im + im * ramp_re


@njit(**JIT)
def turn_back(out_re, out_im, a_re, a_im, ramp, c, s):
    """``out = a · conj(ramp · (c + i s))``"""
    r, i = ramp[0], ramp[1]
    for k in range(len(a_re)):
        ramp_re = c * r[k] - s * i[k]
        ramp_im = c * i[k] + s * r[k]
        re, im = a_re[k], a_im[k]
        out_re[k] = re * ramp_re + im * ramp_im
        out_im[k] = im * ramp_re - re * ramp_im


@njit(**JIT)
def dot_imaginary(a_re, a_im, b_re, b_im, weight):
    """Σ Im(conj(a) b), and the same weighted."""
    plain, weighted = np.float32(0), np.float32(0)
    for k in range(len(a_re)):
        product = a_re[k] * b_im[k] - a_im[k] * b_re[k]
        plain += product
        weighted += weight[k] * product
    return plain, weighted


@njit(**JIT)
def dot_real(a_re, a_im, b_re, b_im):
    """Re Σ conj(a) b"""
    total = np.float32(0)
    for k in range(len(a_re)):
        total += a_re[k] * b_re[k] + a_im[k] * b_im[k]
    return total


@njit(**EXACT)
def row_total(row):
    """Sum of float32 numbers in float64, in an order of its own: eight sums side by side."""
    a, b, c, d, e, f, g, h = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    whole = len(row) // 8 * 8
    for k in range(0, whole, 8):
        a += row[k]
        b += row[k + 1]
        c += row[k + 2]
        d += row[k + 3]
        e += row[k + 4]
        f += row[k + 5]
        g += row[k + 6]
        h += row[k + 7]
    for k in range(whole, len(row)):
        a += row[k]
    return ((a + b) + (c + d)) + ((e + f) + (g + h))

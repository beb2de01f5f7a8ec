"""Reading the specimen from a signal or from atoms."""

import hyperspy.api as hs
import numpy as np
import pytest

from hs_autoptycho import design_experiment
from hs_autoptycho._potential import depth_note, read_potential
from hs_autoptycho.data._multislice import interaction_parameter
from hs_autoptycho.design.instrument import DesignError


def signal_of(phase, quantity="Phase (rad)"):
    axes = [
        {"name": n, "units": "Å", "scale": 0.2, "offset": o, "size": s, "navigate": False}
        for n, o, s in zip("yx", (-3.0, 5.0), phase.shape, strict=True)
    ]
    signal = hs.signals.Signal2D(phase, axes=axes)
    signal.metadata.set_item("Signal.quantity", quantity)
    return signal


def test_units_of_the_potential(phase):
    radians = read_potential(signal_of(phase), 80.0)
    np.testing.assert_allclose(radians.phases[0], phase)
    assert (radians.pixel, radians.origin) == (pytest.approx(0.2), (-3.0, 5.0))
    volts = signal_of(phase, "Projected potential (V Å)")
    factor = interaction_parameter(80.0)
    np.testing.assert_allclose(read_potential(volts, 80.0).phases[0], phase * factor)
    sign = signal_of(phase, "Projected potential (V \u212b)")  # not the letter
    np.testing.assert_allclose(read_potential(sign, 80.0).phases[0], phase * factor)
    stated = read_potential(signal_of(phase, ""), 80.0, quantity="potential")
    np.testing.assert_allclose(stated.phases[0], phase * factor)
    for axis in volts.axes_manager.signal_axes:
        axis.units, axis.scale, axis.offset = "nm", axis.scale / 10, axis.offset / 10
    in_nm = read_potential(volts, 80.0)
    assert (in_nm.pixel, in_nm.origin) == (pytest.approx(0.2), pytest.approx((-3.0, 5.0)))


def test_slices(phase):
    stack = hs.signals.Signal2D(np.stack([phase, phase, 2 * phase]))
    for axis, other in zip(
        stack.axes_manager.signal_axes, signal_of(phase).axes_manager.signal_axes, strict=True
    ):
        axis.units, axis.scale = "Å", other.scale
    with pytest.raises(DesignError, match="slice_thickness"):
        read_potential(stack, 80.0, quantity="phase")
    assert read_potential(stack, 80.0, quantity="phase", slice_thickness=4.0).spacings == (4.0, 4.0)
    depth = stack.axes_manager.navigation_axes[0]
    one = read_potential(stack.inav[:1], 80.0, quantity="phase")
    assert one.spacings == () and one.phases.shape == (1, *phase.shape)
    depth.units, depth.scale = "nm", 0.3
    assert read_potential(stack, 80.0, quantity="phase").spacings == pytest.approx((3.0, 3.0))
    with pytest.raises(DesignError, match=r"slice_thickness=4 Å, but .* says 3 to 3 Å"):
        read_potential(stack, 80.0, quantity="phase", slice_thickness=4.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.metadata.set_item("Signal.quantity", "Counts"), 'quantity="phase"'),
        (lambda s: setattr(s.axes_manager[0], "scale", 0.3), "square"),
        (lambda s: setattr(s.axes_manager[0], "units", "px"), r'axis\.units = "Å"'),
        (lambda s: setattr(s.axes_manager[1], "units", "1/nm"), "a length is needed"),
        (lambda s: s.data.__setitem__((3, 4), np.nan), "finite"),
    ],
)
def test_what_is_no_potential(phase, change, message):
    signal = signal_of(phase.copy())
    change(signal)
    with pytest.raises(DesignError, match=message):
        read_potential(signal, 80.0)


def test_not_even_a_signal(phase):
    with pytest.raises(TypeError, match="ndarray"):
        design_experiment(phase, 1e4)
    with pytest.raises(DesignError, match="2 navigation"):
        read_potential(hs.signals.Signal2D(np.zeros((2, 3, 8, 9))), 80.0, quantity="phase")


class Atoms:
    """As much of ase's as is looked at before abTEM is asked."""

    def __init__(self, thickness):
        self.thickness = thickness

    def get_positions(self):
        return np.array([(3.0, 5.0, 1.0), (9.0, 2.0, 1.0 + self.thickness)])

    def get_cell(self):
        return np.diag([12.0, 9.0, 40.0])


def test_atoms_in_one_slice(specimen):
    # at 20 mrad and 80 kV the depth of focus is 104 Å
    [note] = depth_note(Atoms(150.0), specimen, 0.0417572, 20.0)
    assert "150 Å thick, more than the depth of focus of 104 Å" in note
    assert depth_note(Atoms(90.0), specimen, 0.0417572, 20.0) == []
    with pytest.raises(DesignError, match="atoms have none"):
        read_potential(Atoms(90.0), 80.0, quantity="phase")


@pytest.mark.slow  # abTEM compiles
def test_atoms():
    ase, _ = pytest.importorskip("ase"), pytest.importorskip("abtem")
    atoms = ase.Atoms("MoS", positions=[(3.0, 5.0, 1.0), (9.0, 2.0, 2.0)], cell=(12.0, 9.0, 4.0))
    atoms.pbc = True
    specimen = read_potential(atoms, 80.0)
    assert specimen.extent == pytest.approx((9.0, 12.0), abs=2 * specimen.pixel)
    image = specimen.phases[0]
    row, column = np.unravel_index(np.argmax(image), image.shape)
    assert (row * specimen.pixel, column * specimen.pixel) == pytest.approx((5.0, 3.0), abs=0.15)
    slices = read_potential(atoms, 80.0, slice_thickness=2.0)
    assert slices.spacings == pytest.approx((2.0,))
    np.testing.assert_allclose(slices.phases.sum(axis=0), image, atol=1e-3 * image.max())
    atoms.set_cell([[12.0, 2.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 4.0]])
    with pytest.raises(DesignError, match="orthogonalize_cell"):
        read_potential(atoms, 80.0)

"""`Signal2D.autotune_ptycho` from its front door: what is tuned, recorded, refused and survived."""

import json

import hyperspy.api as hs
import numba
import numpy as np
import pytest

import hs_autoptycho
from hs_autoptycho.calibration import CalibrationError
from hs_autoptycho.data import phase_correlation, twisted_bilayer_mos2
from hs_autoptycho.ptycho.parameters import ParameterError
from hs_autoptycho.signals import PtychographicObject
from hs_autoptycho.tuning import schedule
from hs_autoptycho.tuning.engines import NumbaEngine
from hs_autoptycho.tuning.objectives import ObjectiveError
from hs_autoptycho.tuning.study_file import StudyError
from hs_autoptycho.tuning.tuner import TuningError

pytestmark = pytest.mark.usefixtures("one_thread")

SPACE = {"scan_rotation": (-20, 40), "defocus": (60, 180)}
SHORT = {"n_trials": 5, "n_trial_iterations": 2, "n_iterations": 3}
FIELDS = {
    "number", "parameters", "fidelity", "purpose", "seed", "objective", "metrics", "blocks",
    "curve", "status", "duration", "message", "attempts",
}  # fmt: skip


@pytest.fixture(scope="module")
def simulated():
    return twisted_bilayer_mos2(
        scan_shape=(9, 11), detector_shape=(48, 64), defocus=120, scan_rotation=12
    )


@pytest.fixture
def scan(simulated):
    return simulated.deepcopy()


def statuses(result):
    return [trial["status"] for trial in result.trials]


def told(result):
    """Parameters and objectives of the trials, which a seed determines."""
    return [(trial["parameters"], trial["objective"]) for trial in result.trials]


# ------------------------------------------------------------------------------------- tuning


def test_it_finds_the_truth(simulated, tmp_path):
    heard = []
    result = simulated.autotune_ptycho(
        SPACE, n_trials=24, n_trial_iterations=4, n_iterations=8, callback=heard.append
    )
    best = result.best_parameters
    assert list(best) == list(SPACE)
    assert abs(best["scan_rotation"] - 12) < 5
    assert abs(best["defocus"] - 115) < 20  # 5 Å less than was simulated: see the simulation
    assert phase_correlation(result, simulated) > 0.85
    assert type(result) is PtychographicObject
    assert result.status == "completed"
    assert result.parameters["n_iterations"] == 8
    assert {name: result.parameters[name] for name in best} == best

    trials = result.trials
    assert len(trials) == 24 and json.loads(json.dumps(heard)) == heard == trials
    for number, trial in enumerate(trials):
        assert set(trial) == FIELDS
        assert trial["number"] == number
        assert trial["status"] in ("completed", "pruned") and trial["message"] == ""
        assert (trial["seed"] > 0) == (trial["purpose"] == "repeat") and trial["duration"] >= 0
        if trial["status"] == "completed":
            assert trial["metrics"]["held_out"] == trial["objective"]
        for name, (low, high) in SPACE.items():
            assert low <= trial["parameters"][name] <= high
    every = [t for t in trials if t["fidelity"]["n_iterations"] == 4]
    full = [t for t in every if t["purpose"] != "repeat"]
    lowest = min(full, key=lambda t: t["objective"])["parameters"]
    if best != lowest:  # then it is what polishing ended at, and is as good over all orders
        assert "refinement" in [t["purpose"] for t in full if t["parameters"] == best]
        scores = [
            {t["seed"]: t["objective"] for t in every if t["parameters"] == point}
            for point in (best, lowest)
        ]
        gain = [scores[0][seed] - scores[1][seed] for seed in scores[1]]
        assert len(gain) == 3 and np.mean(gain) <= np.std(gain, ddof=1) / np.sqrt(3)
    # paired trials mend what the search has found
    promoted = [t["objective"] for t in full if t["purpose"] == "promotion"]
    refined = [t["objective"] for t in full if t["purpose"] == "refinement"]
    assert min(refined) < np.median(promoted)

    path = tmp_path / "best.hspy"
    result.save(path)
    again = hs.load(path)
    assert type(again) is PtychographicObject
    assert again.trials == trials and again.best_parameters == best
    assert np.array_equal(again.data, result.data)
    assert np.array_equal(again.probe.data, result.probe.data)
    assert np.array_equal(again.positions, result.positions)
    assert again.parameters == result.parameters


def test_the_best_is_what_reconstruct_ptycho_gives(scan):
    result = scan.autotune_ptycho(SPACE, **SHORT)
    same = scan.reconstruct_ptycho(**result.best_parameters, n_iterations=3)
    assert np.array_equal(result.data, same.data)
    assert np.array_equal(result.probe.data, same.probe.data)
    assert result.parameters == same.parameters
    assert result.fingerprint == same.fingerprint


def test_the_seed_decides(scan):
    first = scan.autotune_ptycho(SPACE, **SHORT)
    assert told(scan.autotune_ptycho(SPACE, **SHORT)) == told(first)
    lazy = scan.as_lazy()
    assert told(lazy.autotune_ptycho(SPACE, **SHORT, num_workers=1)) == told(first)
    heard = []
    other = scan.autotune_ptycho(
        SPACE, **SHORT, random_state=np.int64(1), callback=lambda t: heard.append(json.dumps(t))
    )
    assert told(other) != told(first)
    assert other.seed == 1 and other.trials[0]["seed"] == 1


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
def test_the_number_of_threads_makes_no_difference(scan):
    options = {"n_trials": 2, "n_trial_iterations": 1, "n_iterations": 1}
    one, two = (scan.autotune_ptycho(SPACE, **options, num_workers=n) for n in (1, 2))
    assert told(one) == told(two)
    assert np.array_equal(one.data, two.data)


def test_a_pyxem_signal_and_the_input_stay_what_they_are(scan):
    pytest.importorskip("pyxem")
    data = scan.data.copy()
    scan.set_signal_type("electron_diffraction")
    metadata, kind = scan.metadata.as_dictionary(), type(scan)
    result = scan.autotune_ptycho(SPACE, **{**SHORT, "n_trials": 2})
    assert type(result) is PtychographicObject
    assert type(scan) is kind and kind.__name__ == "ElectronDiffraction2D"
    assert scan.metadata.as_dictionary() == metadata
    assert np.array_equal(scan.data, data)


def test_nothing_given(scan):
    result = scan.autotune_ptycho(n_trials=3, n_trial_iterations=2, n_iterations=2)
    usual = {"scan_rotation", "defocus", "C12a", "C12b", "n_probe_modes"}
    assert set(result.best_parameters) == usual
    result = scan.autotune_ptycho({"defocus": 120}, n_trials=2, n_trial_iterations=1)
    assert set(result.best_parameters) == usual - {"defocus"}
    assert result.parameters["defocus"] == 120


def test_names_alone(scan):
    result = scan.autotune_ptycho(["defocus", "C30"], n_trials=2, n_trial_iterations=1)
    assert set(result.best_parameters) == {"defocus", "C30"}
    notes = " ".join(result.notes)
    assert "scan_rotation was held at" in notes and "spherical aberration" in notes


def test_scaled_counts(scan):
    scan.change_dtype("float32")
    scan.data *= 0.37
    result = scan.autotune_ptycho(SPACE, **{**SHORT, "n_trials": 2})
    assert result.trials[0]["metrics"]["gain"] == pytest.approx(0.37, rel=0.05)


def test_several_fidelities(simulated):
    result = simulated.autotune_ptycho(
        {**SPACE, "n_probe_modes": [1, 2]}, n_trials=30, n_trial_iterations=6, n_iterations=6
    )
    purposes = [trial["purpose"] for trial in result.trials]
    assert len(purposes) == 30
    assert {"search", "promotion", "both sides", "refinement", "repeat"} <= set(purposes)
    lengths = {trial["fidelity"]["n_iterations"] for trial in result.trials}
    assert lengths == {3, 6}
    low, high = result.parameter_intervals["scan_rotation"]
    assert low <= result.best_parameters["scan_rotation"] <= high and high - low < 10
    assert set(result.parameter_importance) == {"scan_rotation", "defocus", "n_probe_modes"}
    assert abs(result.best_parameters["defocus"] - 115) < 10


@pytest.mark.parametrize("strategy", ["full", "random", "sobol", "default"])
def test_other_strategies(scan, strategy):
    result = scan.autotune_ptycho(SPACE, strategy=strategy, **SHORT)
    assert len(result.trials) == (1 if strategy == "default" else 5)
    assert {trial["fidelity"]["n_iterations"] for trial in result.trials} == {2}


def test_a_study_is_continued(scan, tmp_path, monkeypatch):
    path = tmp_path / "study.jsonl"
    whole = scan.autotune_ptycho(SPACE, **SHORT)
    heard = []
    begun = scan.autotune_ptycho(
        SPACE, study=path, callback=lambda t: heard.append(t) or len(heard) == 3, **SHORT
    )
    assert len(begun.trials) == len(hs_autoptycho.load_study(path).trials) == 3
    result = scan.autotune_ptycho(SPACE, study=path, **SHORT)
    assert told(result) == told(whole) and np.array_equal(result.data, whole.data)
    assert told(result)[:3] == told(begun)
    with pytest.raises(StudyError, match="random_state"):
        scan.autotune_ptycho(SPACE, study=path, random_state=1, **SHORT)
    # patterns that are left on disk are divided otherwise
    with monkeypatch.context() as patch, pytest.raises(StudyError, match="'left on disk'"):
        patch.setattr("hs_autoptycho._memory.stays_on_disk", lambda *arguments: True)
        scan.as_lazy().autotune_ptycho(SPACE, study=path, **SHORT)
    scan.data[2, 3, 4, 5] += 1
    with pytest.raises(StudyError, match="fingerprint"):
        scan.autotune_ptycho(SPACE, study=path, **SHORT)


def test_on_a_cluster(scan):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(1, threads_per_worker=1, processes=False, dashboard_address=None)
        as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):  # fmt: skip
        result = scan.autotune_ptycho(SPACE, client=client, **SHORT)
    alone = scan.autotune_ptycho(SPACE, **SHORT)
    assert told(result) == told(alone) and np.array_equal(result.data, alone.data)


def test_an_engine_of_ones_own(scan):
    class Own(NumbaEngine):
        name = "own"
        passes = 0

        def fit(self, experiment, parameters, **options):
            Own.passes += options["n_iterations"]
            return super().fit(experiment, parameters, **options)

    result = scan.autotune_ptycho(SPACE, engine=Own(), **SHORT)
    assert Own.passes == 5 * 2 + 3
    assert result.metadata.Ptychography.tuning.engine == "own"
    with pytest.raises(ValueError, match="engine='cuda'.*numba"):
        scan.autotune_ptycho(SPACE, engine="cuda", **SHORT)


# ------------------------------------------------------------------------------------ the space


def test_all_kinds_of_parameters(scan):
    result = scan.autotune_ptycho(
        {
            "defocus": (60, 240, "log"),
            "n_probe_modes": [1, 2],
            "batch_size": (8, 24),
            "detector_flip": ["none", "transpose"],
            "step_probe": 0.5,
        },
        fixed={"scan_rotation": 12, "algorithm": "lsq-ml", "disk_radius": 8.0},
        **{**SHORT, "n_trials": 8},
    )
    for trial in result.trials:
        parameters = trial["parameters"]
        assert list(parameters) == ["defocus", "n_probe_modes", "batch_size", "detector_flip"]
        assert [type(v) for v in parameters.values()] == [float, int, int, str]
        assert 60 <= parameters["defocus"] <= 240
        assert parameters["n_probe_modes"] in (1, 2)
        assert 8 <= parameters["batch_size"] <= 24
        assert trial["status"] == "completed"
    assert {t["parameters"]["detector_flip"] for t in result.trials} == {"none", "transpose"}
    assert result.best_parameters["detector_flip"] == "none"
    assert len(result.probe.data) == result.best_parameters["n_probe_modes"]
    assert result.parameters["step_probe"] == 0.5
    assert result.parameters["scan_rotation"] == 12
    assert result.geometry.disk_radius == 8


def test_a_discrete_space_ends_early(scan):
    result = scan.autotune_ptycho(
        {"n_probe_modes": [1, 2], "detector_flip": ["none", "rows"]},
        fixed={"defocus": 120, "scan_rotation": 12},
        **{**SHORT, "n_trials": 30},
    )
    points = {tuple(trial["parameters"].values()) for trial in result.trials}
    assert len(result.trials) == len(points) == 4
    assert result.status == "completed"


@pytest.mark.parametrize(
    "parameters, fixed, error, message",
    [
        ({"defocus": (1, 9)}, {"defocus": 3}, ParameterError, "defocus is both"),
        ({"defocus": 5}, {"defocus": 3}, ParameterError, "defocus is both"),
        ({"defocus": (1, 1e9)}, {}, ParameterError, "defocus=1000000000"),
        ({"defocus": (1, 9)}, {"n_probe_modes": 0}, ParameterError, "n_probe_modes=0"),
        ({"defocs": (1, 9)}, {}, TypeError, "'defocs'.*'defocus'"),
        ({"defocus": (1, 9)}, {"modes": 3}, TypeError, "fixed parameter 'modes'"),
        ([1, 2], {}, ParameterError, "a dictionary is needed"),
    ],
)
def test_bad_spaces(scan, parameters, fixed, error, message):
    with pytest.raises(error, match=message):
        scan.autotune_ptycho(parameters, fixed=fixed, **SHORT)


def test_bad_arguments(scan):
    with pytest.raises(TypeError, match=r"'defocus'.*fixed=\{'defocus': 300\}"):
        scan.autotune_ptycho(SPACE, defocus=300)
    for name in ("n_trials", "n_iterations", "n_trial_iterations"):
        with pytest.raises(ValueError, match=f"{name}=0"):
            scan.autotune_ptycho(SPACE, **{**SHORT, name: 0})
    del scan.metadata.Acquisition_instrument.TEM.beam_energy
    with pytest.raises(CalibrationError, match="beam_energy"):
        scan.autotune_ptycho(SPACE, **SHORT)


# ----------------------------------------------------------------------------------- objectives


@pytest.mark.parametrize("objective", ["data_error", "frc"])
def test_other_objectives(scan, objective):
    result = scan.autotune_ptycho(SPACE, objective=objective, **SHORT)
    assert statuses(result) == ["completed"] * 5
    assert result.metadata.Ptychography.tuning.objective == objective
    best = min(result.trials, key=lambda trial: trial["objective"])
    assert result.best_parameters == best["parameters"]


def test_an_objective_of_ones_own(scan):
    def flatness(reconstruction):
        return np.float32(-np.angle(reconstruction.object).std())

    result = scan.autotune_ptycho(SPACE, objective=flatness, **SHORT)
    assert result.metadata.Ptychography.tuning.objective == "flatness"
    assert all(type(trial["objective"]) is float for trial in result.trials)


def test_objectives_that_do_not_fit(scan):
    with pytest.raises(ObjectiveError, match="'psnr'.*held_out.*data_error.*frc.*function"):
        scan.autotune_ptycho(SPACE, objective="psnr", **SHORT)
    scan.change_dtype("float32")
    # so much noise of the readout that single electrons cannot be told
    noise = np.random.default_rng(0).normal(3, 3, scan.data.shape)
    scan.data = np.maximum(0.37 * scan.data + noise, 0).astype("float32")
    with pytest.raises(ObjectiveError, match="held_out.*float32"):
        scan.autotune_ptycho(SPACE, **SHORT)
    result = scan.autotune_ptycho(SPACE, objective="frc", **{**SHORT, "n_trials": 2})
    assert statuses(result) == ["completed"] * 2
    assert result.parameters["noise_model"] == "amplitude"


# ---------------------------------------------------------------------- failures, interruptions


def test_trials_that_fail_are_survived(scan):
    calls = []

    def moody(reconstruction):
        calls.append(1)
        if len(calls) in (1, 3):
            raise RuntimeError("not this one")
        if len(calls) == 4:
            return float("nan")
        return reconstruction.errors[-1]

    result = scan.autotune_ptycho(SPACE, objective=moody, **SHORT)
    assert statuses(result) == ["failed", "completed", "failed", "failed", "completed"]
    for number in (0, 2):
        assert result.trials[number]["message"] == "RuntimeError: not this one"
        assert result.trials[number]["objective"] is None
    assert "nan" in result.trials[3]["message"]
    assert result.status == "completed"


def test_all_trials_fail(scan):
    def never(reconstruction):
        raise RuntimeError("never")

    with pytest.raises(TuningError, match="None of 5 trials.*RuntimeError: never"):
        scan.autotune_ptycho(SPACE, objective=never, **SHORT)


def test_a_diverging_trial_is_recorded(scan):
    result = scan.autotune_ptycho(
        {"step_probe": [1.0, 10.0]}, fixed={"defocus": 120, "scan_rotation": 12}, **SHORT
    )
    trials = {trial["parameters"]["step_probe"]: trial for trial in result.trials}
    assert trials[10]["status"] == "diverged" and trials[10]["objective"] is None
    assert trials[10]["message"]
    assert result.best_parameters == {"step_probe": 1.0}


def test_a_diverging_step_of_epie_is_never_the_best(scan):
    result = scan.autotune_ptycho(
        {"step_object": [0.3, 10.0]},
        fixed={"defocus": 120, "scan_rotation": 12, "algorithm": "epie", "step_probe": 0},
        **SHORT,
    )
    trials = {trial["parameters"]["step_object"]: trial for trial in result.trials}
    assert trials[10]["status"] == "diverged"
    assert result.best_parameters == {"step_object": 0.3}


def test_the_callback_can_stop(scan):
    result = scan.autotune_ptycho(SPACE, callback=lambda trial: trial["number"] == 2, **SHORT)
    assert len(result.trials) == 3
    assert result.status == "completed"  # that is what was wanted, so it is refined
    assert result.parameters["n_iterations"] == 3


def test_ctrl_c_in_the_callback(scan):
    def stop(trial):
        if trial["number"] == 2:
            raise KeyboardInterrupt

    result = scan.autotune_ptycho(SPACE, callback=stop, **SHORT)
    assert result.status == "interrupted"
    assert len(result.trials) == 3
    assert result.parameters["n_iterations"] == 2  # as in the trial
    assert any("3 of 5 trials" in note for note in result.notes)
    assert min(result.trials, key=lambda t: t["objective"])["parameters"] == (
        result.best_parameters
    )


def interrupt_batch(monkeypatch, number):
    """Raise KeyboardInterrupt in the `number`-th update of any solver."""
    from hs_autoptycho.ptycho import solver

    calls = []

    class Interrupted(solver.UPDATES["lsq-ml"]):
        def __call__(self, *args, **options):
            calls.append(1)
            if len(calls) == number:
                raise KeyboardInterrupt
            super().__call__(*args, **options)

    monkeypatch.setitem(solver.UPDATES, "lsq-ml", Interrupted)


def test_ctrl_c_in_a_trial(scan, monkeypatch):
    interrupt_batch(monkeypatch, 2 * 12 + 3)  # 6 batches a pass, 2 passes a trial
    result = scan.autotune_ptycho(SPACE, **SHORT)
    # the third is forgotten, so that a study that goes on runs it
    assert statuses(result) == ["completed", "completed"]
    assert result.status == "interrupted"


def test_ctrl_c_among_trials_on_a_part_of_the_scan(scan, monkeypatch):
    monkeypatch.setattr(schedule, "CHEAP_POSITIONS", 40)

    def interrupt(trial):
        if trial["number"] == 2:
            raise KeyboardInterrupt

    result = scan.autotune_ptycho(
        SPACE, n_trials=30, n_trial_iterations=4, n_iterations=2, callback=interrupt
    )
    assert result.trials[0]["fidelity"]["part"] < 0.5
    assert result.status == "interrupted" and len(result.positions) == 99
    assert result.parameters["n_iterations"] == 3


def test_ctrl_c_before_the_first_trial_is_complete(scan, monkeypatch):
    interrupt_batch(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        scan.autotune_ptycho(SPACE, **SHORT)


def test_ctrl_c_while_refining(scan, monkeypatch):
    interrupt_batch(monkeypatch, 5 * 12 + 14)
    result = scan.autotune_ptycho(SPACE, **SHORT)
    assert statuses(result) == ["completed"] * 5
    assert result.status == "interrupted"
    assert result.parameters["n_iterations"] == 2


# --------------------------------------------------------------------------------------- silence


def test_silent_unless_asked(scan, capfd):
    from matplotlib import pyplot

    scan.as_lazy().autotune_ptycho(SPACE, **SHORT, show_progressbar=False)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    assert pyplot.get_fignums() == []
    scan.autotune_ptycho(SPACE, **SHORT, show_progressbar=True)
    captured = capfd.readouterr()
    assert "Tune" in captured.out + captured.err
    assert "best=" in captured.out + captured.err
    assert "Refine" in captured.out + captured.err


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"n_trial": 3}, "Did you mean 'n_trials'"),
        ({"n_iter": 3}, "Did you mean 'n_iterations'"),
        ({"seed": 3}, "Did you mean 'random_state'"),
        ({"defocus": 300}, r"fixed=\{'defocus': 300\}"),
        ({"something": 1}, r"fixed=\{'something': 1\}"),
        ({"fixed": {"n_iterations": 3}}, "'n_iterations' is no fixed parameter but an argument"),
        ({"fixed": {"seed": 3}}, "Unknown fixed parameter 'seed'. Did you mean 'random_state'"),
        ({"parameters": {"n_iterations": (3, 5)}}, "an argument of the call itself"),
    ],
)
def test_an_option_in_the_wrong_place_or_misspelt(scan, options, advice):
    with pytest.raises(TypeError, match=advice):
        scan.autotune_ptycho(**options)

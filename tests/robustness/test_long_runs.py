"""What further runs leave behind in a process: nothing; and which settings they change: none.

``python benchmarks/reliability.py long`` does hundreds of runs and tells the drifts.
"""

import gc
import json
import os
import subprocess
import sys
import tracemalloc
import weakref
from pathlib import Path
from unittest import mock

import matplotlib.pyplot as plt
import numpy as np
import pytest

if not Path("/proc/self/fd").exists():
    pytest.skip("threads and open files are counted on Linux only", allow_module_level=True)

sys.path.append(str(Path(__file__).parent))
from judging import METHODS, OPTIONS, good  # noqa: E402
from watching import array_bytes, holdings, settings, settled_holdings  # noqa: E402

from hs_autoptycho._running import threads  # noqa: E402
from hs_autoptycho.clustering import splitting  # noqa: E402
from hs_autoptycho.ptycho import solver  # noqa: E402
from hs_autoptycho.tuning import optimizer, selection  # noqa: E402
from hs_autoptycho.tuning.trial import Fidelity, Trial  # noqa: E402

# further runs, after those that compile and import
WARM, MORE = 2, 3
TUNED = {"strategy": "full", "n_trials": 6}


def signal_for(method, lazy=False):
    signal = good(method)
    if lazy:
        signal = signal.as_lazy()
        signal.data = signal.data.rechunk((3, 5, *signal.data.shape[2:]))
    return signal


def run(signal, method, **changed):
    options = {**OPTIONS[method], **(TUNED if method == "autotune_ptycho" else {}), **changed}
    return getattr(signal, method)(num_workers=2, **options)


@pytest.fixture
def own_temporary_folder(tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))


@pytest.mark.parametrize("lazy", [False, True], ids=["in memory", "lazy"])
@pytest.mark.parametrize("method", METHODS)
def test_further_runs_leave_nothing(method, lazy, own_temporary_folder):
    signal = signal_for(method, lazy)
    for _ in range(WARM):
        run(signal, method)
    before = holdings()
    tracemalloc.start()
    try:
        result = run(signal, method)
        held = array_bytes()
        del result
        bytes_before = array_bytes()
        held -= bytes_before
        assert held > 1000  # the memory of arrays is seen
        for _ in range(MORE):
            run(signal, method)
        grown = array_bytes() - bytes_before
    finally:
        tracemalloc.stop()
    assert grown < held / 2, f"{grown} bytes of arrays are left by {MORE} runs"
    assert settled_holdings(before) == before


def test_a_study_leaves_no_open_file(tmp_path, own_temporary_folder):
    signal = signal_for("autotune_ptycho")
    run(signal, "autotune_ptycho", study=tmp_path / "first.jsonl")
    before = holdings()
    for number in range(MORE):
        run(signal, "autotune_ptycho", study=tmp_path / f"{number}.jsonl")
    # one that goes on, and one that an error ends
    run(signal, "autotune_ptycho", study=tmp_path / "0.jsonl", n_trials=7)

    def wrong(trial):
        raise LookupError("wrong")

    with pytest.raises(LookupError):
        run(signal, "autotune_ptycho", study=tmp_path / "error.jsonl", callback=wrong)
    assert settled_holdings(before) == before


def draw_all(result):
    result.plot()
    if hasattr(result, "plot_tree"):
        result.plot_tree()
        result.plot_overlay()
        return
    result.plot_summary()
    if result.metadata.has_item("Ptychography.tuning"):
        result.plot_tuning()


@pytest.mark.parametrize("method", ["autotune_ptycho", "cluster_hierarchical"])
def test_closed_plots_are_let_go(method, own_temporary_folder):
    result = run(signal_for(method), method)
    draw_all(result)
    plt.close("all")
    events = result.axes_manager.events
    connected = [len(event.connected) for event in events]
    before, figures = holdings(), []
    for _ in range(MORE):
        draw_all(result)
        figures.append([weakref.ref(plt.figure(number)) for number in plt.get_fignums()])
        assert len(figures[-1]) >= 3
        plt.close("all")
    assert settled_holdings(before) == before
    assert [len(event.connected) for event in events] == connected
    # HyperSpy's last plot is kept, closed, by its signal
    assert [sum(figure() is not None for figure in some) for some in figures[:-1]] == [0, 0]
    gone = weakref.ref(result)
    del result, events
    gc.collect()
    assert gone() is None
    assert not any(figure() is not None for figure in figures[-1])


@pytest.mark.slow
def test_a_cluster_keeps_nothing_of_a_run(own_temporary_folder):
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 1, "threads_per_worker": 2, "processes": False}
    counts = []
    for _ in range(3):
        with (
            distributed.LocalCluster(**options, dashboard_address=None) as cluster,
            distributed.Client(cluster) as client,
        ):
            run(signal_for("cluster_hierarchical", lazy=True), "cluster_hierarchical")
            run(signal_for("reconstruct_ptycho", lazy=True), "reconstruct_ptycho")
            run(signal_for("autotune_ptycho"), "autotune_ptycho", client=client)
            gc.collect()

            def idle(dask_scheduler=None):
                return len(dask_scheduler.tasks)

            for _ in range(50):  # what is released takes its way to the scheduler
                left = client.run_on_scheduler(idle)
                if not left:
                    break
                client.sync(_a_moment)
            assert left == 0
        counts.append(holdings())
    # the first starts threads that distributed keeps
    assert settled_holdings(counts[1]) == counts[1]


async def _a_moment():
    import asyncio

    await asyncio.sleep(0.1)


def test_the_best_of_many_trials_is_found_with_few_comparisons():
    """The tuner asks for it after every trial."""
    draw, full = np.random.default_rng(3).normal, Fidelity(4)
    blocks = draw(size=(300, 7)).tolist()
    trials = [
        Trial(i, {"defocus": float(i)}, full, objective=float(np.mean(some)), blocks=some)
        for i, some in enumerate(blocks)
    ]
    with mock.patch.object(selection, "difference", wraps=selection.difference) as compared:
        best = selection.select_best(trials, full)
    assert best is min(trials, key=lambda trial: trial.objective)
    assert compared.call_count < 10


# --- settings ---------------------------------------------------------------------------------


def raising(error):
    def function(*arguments, **options):
        raise error

    return function


def interrupted_run(method, error):
    """Run a method in the middle of which there is an error, or Ctrl-C."""
    signal = signal_for(method, lazy=True)
    if method == "reconstruct_ptycho":
        patch = mock.patch.object(solver._Run, "_record", raising(error))
    elif method == "autotune_ptycho":  # where threads are limited and warnings switched off
        sampler = optimizer.GaussianProcessOptimizer
        patch = mock.patch.object(sampler, "_best", raising(error))
    else:
        patch = mock.patch.object(splitting, "propose", raising(error))
    with patch:
        return run(signal, method)


@pytest.mark.parametrize("method", METHODS)
def test_settings_are_as_they_were(method):
    run(signal_for(method), method)  # imports may set what they like
    # none of them has the value that it is reset to by mistake
    with np.errstate(over="raise", divide="ignore"), plt.rc_context({"lines.linewidth": 3.25}):
        before = settings()
        draw_all(run(signal_for(method), method))
        plt.close("all")
        assert settings() == before
        with pytest.raises(LookupError):
            interrupted_run(method, LookupError("in the middle"))
        assert settings() == before
        try:  # a result as far as it got, where there is something
            interrupted_run(method, KeyboardInterrupt())
        except KeyboardInterrupt:
            assert method != "cluster_hierarchical"
        assert settings() == before


@pytest.mark.parametrize("where", ["features", "progress"])
@pytest.mark.parametrize("error", [LookupError, KeyboardInterrupt])
def test_settings_after_a_pass_that_ends_early(where, error, own_temporary_folder):
    """While blocks are under way in threads, of which none is left."""
    signal, method = signal_for("cluster_hierarchical", lazy=True), "cluster_hierarchical"
    run(signal, method)
    signal.data[:1, :1].compute()  # dask's own threads
    state, before = settings(), holdings()
    calls = []

    def features(patterns):
        calls.append(len(patterns))
        if len(calls) == 4:
            raise error("in the middle")
        return patterns.reshape(len(patterns), -1)[:, :3].astype(float)

    def update(self, n=1):
        calls.append(n)
        if len(calls) == 4:
            raise error("in the middle")

    if where == "features":
        with pytest.raises(error):
            run(signal, method, features=features)
    else:
        from tqdm.std import tqdm

        with mock.patch.object(tqdm, "update", update), pytest.raises(error):
            run(signal, method)
    assert len(calls) >= 4
    assert settings() == state
    assert settled_holdings(before) == before


# --- threads ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def counted():
    """What `thread_counts` sees, in a process that may have three threads of each kind."""
    three = {"NUMBA_NUM_THREADS": "3", "OMP_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "3"}
    found = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("thread_counts.py"))],
        env={**os.environ, **three, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    return json.loads(found.stdout)


@pytest.mark.parametrize("situation", ["reconstruct", "reconstruct lazily", "tune"])
def test_kernels_have_the_threads_that_were_asked_for(counted, situation):
    found = counted[situation]
    assert found["numba"] == [2]
    assert found["at once"] == 1
    assert found["more threads"] <= 0  # those of the kernels stay for the next


def test_a_model_of_trials_has_one_thread(counted):
    for situation in ("tune: model", "tune on a cluster: model"):
        assert counted[situation]["blas"] == [1]
        assert counted[situation]["at once"] == 1


def test_a_worker_runs_one_trial_at_a_time(counted):
    # with the worker's two threads; what is refined at the end has the three of this process
    assert counted["tune on a cluster"]["numba"] == [2, 3]
    assert counted["tune on a cluster"]["at once"] == 1


@pytest.mark.parametrize(
    "situation, n", [("cluster", 2), ("cluster with one", 1), ("cluster lazily", 2)]
)
def test_threads_of_a_clustering_are_not_multiplied(counted, situation, n):
    found = counted[situation]
    assert found["at once"] <= n
    assert found["blas"] == [1]
    assert found["openmp"] == [1]
    assert found["more threads"] <= n


def test_blocks_on_a_worker_have_its_threads(counted):
    assert 1 <= counted["cluster on a cluster"]["at once"] <= 2


def test_limits_are_put_back(counted):
    # starting a cluster draws random numbers, for names
    for situation, found in counted.items():
        theirs = {"Python's random numbers"} if "on a cluster" in situation else set()
        assert set(found["changed"]) <= theirs, situation


@pytest.mark.parametrize("num_workers", [1, 2])
def test_linear_algebra_has_the_threads_that_were_asked_for(num_workers):
    from threadpoolctl import threadpool_info, threadpool_limits

    def blas():
        return {t["num_threads"] for t in threadpool_info() if t["user_api"] == "blas"}

    np.eye(3) @ np.eye(3)
    with threadpool_limits(4, user_api="blas"):
        before = blas()
        with threads(num_workers):
            assert blas() == {num_workers}
        assert blas() == before != {num_workers}

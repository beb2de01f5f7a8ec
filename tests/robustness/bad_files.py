"""Files that were truncated, overwritten or taken apart, generated for each format."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import hyperspy.api as hs
import numpy as np
from judging import Kind, Rule, finished

# what a .blo does not keep
STATED = {"beam_energy": 80.0, "scan_step": 0.9, "reciprocal_pixel": 0.0625}
ANYTHING = Rule("either", theirs=True)


def cut(part):
    def damage(path: Path):
        content = path.read_bytes()
        path.write_bytes(content[: int(part * len(content))])

    return damage


def overwritten(part, length=2000):
    def damage(path: Path):
        content = bytearray(path.read_bytes())
        start = int(part * len(content))
        noise = np.random.default_rng(0).bytes(min(length, len(content) - start))
        content[start : start + len(noise)] = noise
        path.write_bytes(content)

    return damage


def contents(new: bytes):
    return lambda path: path.write_bytes(new)


def patterns_of(path: Path) -> list[Path]:
    """The chunks of the patterns in a .zspy, the largest files of it."""
    files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".z"))
    return sorted(files, key=lambda p: p.stat().st_size)[-6:]


def one_chunk(damage):
    return lambda path: damage(patterns_of(path)[0])


def of_name(name, damage):
    def all_of(path: Path):
        for file in sorted(path.rglob(name)):
            damage(file)

    return all_of


IN_A_FILE = {
    **{f"cut off after {part:g}": cut(part) for part in (0, 0.001, 0.1, 0.5, 0.9, 0.999)},
    **{f"overwritten at {part:g}": overwritten(part) for part in (0, 0.3, 0.6, 0.9)},
    "text": contents(b"not a file of patterns\n" * 50),
    "zeros": contents(bytes(5000)),
    "another format": contents(b"\x89PNG\r\n\x1a\n" + bytes(200)),
    "gone": Path.unlink,
}
IN_A_FOLDER = {
    "a chunk is cut off": one_chunk(cut(0.5)),
    "a chunk is empty": one_chunk(cut(0)),
    "a chunk is noise": one_chunk(overwritten(0, 10**6)),
    "a chunk is text": one_chunk(contents(b"text")),
    "no .zarray": of_name(".zarray", Path.unlink),
    "no .zgroup": of_name(".zgroup", Path.unlink),
    "no .zattrs": of_name(".zattrs", Path.unlink),
    ".zarray is cut off": of_name(".zarray", cut(0.5)),
    ".zattrs is cut off": of_name(".zattrs", cut(0.5)),
    ".zarray is text": of_name(".zarray", contents(b"[1, 2]")),
    ".zattrs is a list": of_name(".zattrs", contents(b"[1, 2]")),
}


def loaded(extension, damage, lazy):
    """The good signal saved, damaged and loaded; what is on disk is taken away at the end."""

    def make(signal):
        folder = Path(tempfile.mkdtemp(prefix="hs_autoptycho_"))
        try:
            path = folder / f"scan.{extension}"
            options = {"chunks": (2, 3, *signal.data.shape[2:])} if extension != "blo" else {}
            if extension == "blo":
                signal.change_dtype("uint8")
            signal.save(path, **options)
            damage(path)
            signal = hs.load(path, lazy=lazy)
            if lazy:  # it is read while the method runs, and the folder remains until then
                signal.metadata.General.remark = str(folder)
                _folders.append(folder)
                return signal
        except BaseException:
            shutil.rmtree(folder)
            raise
        shutil.rmtree(folder)
        return signal

    return make


_folders: list[Path] = []


def clean() -> None:
    """Take away what lazy signals were read from."""
    while _folders:
        shutil.rmtree(_folders.pop(), ignore_errors=True)


def stated(extension):
    def options(method):
        if extension != "blo" or method == "cluster_hierarchical":
            return {}
        if method == "reconstruct_ptycho":
            return STATED
        return {"fixed": {"scan_rotation": 12.0, **STATED}}

    return options


def files():
    for lazy in (False, True):
        for extension, damages in (
            ("hspy", IN_A_FILE), ("blo", IN_A_FILE), ("zspy", IN_A_FOLDER)
        ):  # fmt: skip
            for name, damage in damages.items():
                yield Kind("files", f".{extension}: {name}", loaded(extension, damage, lazy),
                           ANYTHING, ANYTHING, stated(extension), lazy=lazy)  # fmt: skip
        gone = loaded("zspy", one_chunk(Path.unlink), lazy)
        # zarr gives zeros for a chunk that is not there: patterns without a count
        yield Kind("files", ".zspy: a chunk is gone", gone, finished("empty"), finished("empty"),
                   lazy=lazy)  # fmt: skip
        for extension in ("hspy", "zspy", "blo"):
            exchanged = loaded(extension, lambda path: None, lazy)
            yield Kind("files", f".{extension}: whole", exchanged, finished(), finished(),
                       stated(extension), lazy=lazy)  # fmt: skip


GROUPS = {"files": files}

"""Options of the command line, made from the signatures and docstrings of the methods.

Names, units, limits and explanations stand where the methods have them, and nowhere else.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hs_autoptycho import methods
from hs_autoptycho.ptycho.parameters import PARAMETERS, ParameterError


class UsageError(ValueError):
    """The command line, or a file that it names, cannot be used."""


@dataclass(frozen=True)
class Command:
    """What a command runs, and what its result and its picture are called."""

    method: Callable
    ending: str
    picture: str
    summary: str


COMMANDS = {
    "reconstruct": Command(
        methods.reconstruct_ptycho, "object", "plot_summary", "one reconstruction of a scan"
    ),
    "autotune": Command(
        methods.autotune_ptycho, "tuned", "plot_summary", "a reconstruction that tunes itself"
    ),
    "cluster": Command(
        methods.cluster_hierarchical, "clusters", "plot_tree", "a tree of domains of a scan"
    ),
}

_EXIT_CODES = (
    "Exit codes: 0 done, 1 the computation failed, 2 the command line or a file cannot be used, "
    "130 interrupted by Ctrl-C or SIGTERM (what there was is saved, as the message says)."
)
# of the methods, what has a word of its own below or none at all
_OTHERWISE = ("self", "unknown", "parameters", "fixed", "client", "callback", "show_progressbar")
_KINDS = {
    "int": (int, "a whole number"),
    "float": ((int, float), "a number"),
    "tuple": (tuple, "two numbers, such as 31.5,32"),
}
_TUNE = (
    "What to tune, once for each parameter of `hs-autoptycho reconstruct`, in the units stated "
    "there: NAME alone (in a range derived from the data), NAME=LOW:HIGH, NAME=LOW:HIGH:log, "
    "NAME=A,B,C (to choose among values). Default: scan rotation, defocus, twofold astigmatism and "
    "number of probe modes."
)
_FIXED = (
    "What all trials share, once for each parameter of `hs-autoptycho reconstruct`, in the units "
    "stated there; also detector_mask=FILE and the like."
)
_VALUE_OR_FILE = "Here: a number, numbers such as 10,20, or a file with the array (.npy, .hspy)."
_SCHEDULER = (
    "Address of a distributed scheduler, or its scheduler file: the work is spread over its "
    "workers. Default: this machine alone."
)


def parse(words: Sequence[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    """The command with its settings, and the options of its method.

    Raises
    ------
    UsageError
        If a word is not understood; the message says which.
    SystemExit
        After ``--help`` or ``--version``.
    """
    words = _spelled(words)
    chosen = next((word for word in words if word in COMMANDS), None)
    parser = _Parser(
        "hs-autoptycho",
        description="Ptychography and clustering of 4D-STEM scans, as HyperSpy's signals have it.",
        epilog=_EXIT_CODES,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, help="show the version and end")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=command.summary,
            description=_doc_parts(command.method)[0],
            formatter_class=_Formatter,
            usage=f"hs-autoptycho {name} FILE [--option VALUE ...]",
            epilog=_EXIT_CODES,
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
        )
        if name == chosen:
            _add_method(sub, name, command.method)
            _add_files(sub, command)
    args, rest = parser.parse_known_args(words)
    if rest:
        raise UsageError(_not_understood(rest[0], args.command))
    known = inspect.signature(COMMANDS[args.command].method).parameters
    options = {name: value for name, value in vars(args).items() if name in known}
    for name in ("parameters", "fixed"):
        if name in options:
            options[name] = _gathered(name, options[name])
    return args, options


def _add_method(parser: argparse.ArgumentParser, command: str, method: Callable) -> None:
    """The options that the method has, in its order."""
    _, texts = _doc_parts(method)
    group = parser.add_argument_group("options of the method")
    if command == "autotune":
        group.add_argument("--tune", dest="parameters", metavar="NAME[=VALUES]", action="append",
                           type=_read_range, help=_TUNE)  # fmt: skip
        group.add_argument("--fixed", metavar="NAME=VALUE", action="append", type=_read_fixed,
                           help=_FIXED.replace("%", "%%"))  # fmt: skip
    for option in inspect.signature(method).parameters.values():
        if option.name in _OTHERWISE:
            continue
        group.add_argument(
            f"--{option.name.replace('_', '-')}",
            metavar=_metavar(option),
            type=_reader(option),
            help=_help(option, texts.get(option.name, "")).replace("%", "%%"),
        )
    if command != "reconstruct":
        group.add_argument("--scheduler", metavar="ADDRESS", default=None, help=_SCHEDULER)


def _add_files(parser: argparse.ArgumentParser, command: Command) -> None:
    """What is read, what is written, and what is said."""
    parser.add_argument("file", metavar="FILE", type=Path, help="a scan that hs.load can read")
    add = parser.add_argument_group("files and messages").add_argument
    switch = argparse.BooleanOptionalAction
    add(
        "--load", metavar="NAME=VALUE", action="append", default=[], type=_read_pair,
        help="an option of hs.load, such as file_format=EMD or navigation_shape=256,256",
    )  # fmt: skip
    add(
        "--lazy", action=switch, default=True,
        help="leave the patterns on the disk until they are needed (the default)",
    )  # fmt: skip
    add(
        "--out", metavar="FOLDER_OR_FILE", type=Path, default=Path(),
        help="a name that ends in .hspy or .zspy, or a folder, made if needed. Default: "
        f"FILE_{command.ending}.hspy in the current folder",
    )  # fmt: skip
    add("--overwrite", action="store_true", default=False, help="replace a result that exists")
    add(
        "--picture", action=switch, default=True,
        help=f"write {command.picture}() as PNG beside the result (the default)",
    )  # fmt: skip
    add(
        "--quiet", action="store_true", default=False,
        help="no progress bars, and no notes but warnings and errors",
    )  # fmt: skip
    add("--debug", action="store_true", default=False, help="show the traceback of an error")


# --- what stands in the methods ---------------------------------------------------------------


def _doc_parts(method: Callable) -> tuple[str, dict[str, str]]:
    """First sentence of a docstring, and the text of each of its parameters; plain words."""
    doc = inspect.getdoc(method) or ""
    summary = doc.partition("\n")[0]
    section = re.search(r"\nParameters\n-+\n(.*?)\n\n\w+\n-+\n", doc, re.DOTALL)
    texts: dict[str, str] = {}
    for entry in re.split(r"\n(?=\S)", section[1] if section else ""):
        names, _, text = entry.partition("\n")
        text = " ".join(textwrap.dedent(text).split())
        text = re.sub(r"(,? as in)? ?\[\d+\]_|``|:\w+:", "", text)
        text = re.sub(r" Or a function [^.]*\.", "", text)  # a command line has none
        first, *others = names.split(", ")
        texts[first] = text
        texts.update({name: f"See --{first.replace('_', '-')}." for name in others})
    return summary, texts


def _help(option: inspect.Parameter, text: str) -> str:
    """The text of the method, with the unit and the limits of a parameter of the table."""
    parameter = PARAMETERS.get(option.name)
    if option.default is not None and "default" not in text.lower():
        text = f"{text} Default: {option.default}."
    if parameter is None:
        return f"{text} {_VALUE_OR_FILE}" if _kind(option) == "Any" else text
    if parameter.kind == "choice":
        missing = any(f'"{choice}"' not in text for choice in parameter.choices)
        return f"{text} One of {', '.join(parameter.choices)}." if missing else text
    unit = f"{parameter.unit}; " if parameter.unit else ""
    return f"[{unit}{parameter.low:g} to {parameter.high:g}] {text}"


def _metavar(option: inspect.Parameter) -> str:
    if option.name in PARAMETERS:
        return {"choice": "NAME", "integer": "N"}.get(PARAMETERS[option.name].kind, "NUMBER")
    names = {"int": "N", "float": "NUMBER", "tuple": "ROW,COLUMN", "Any": "VALUE_OR_FILE"}
    return "FILE" if "PathLike" in option.annotation else names.get(_kind(option), "VALUE")


def _kind(option: inspect.Parameter) -> str:
    return re.split(r"\W", option.annotation)[0]


# --- from words to values ---------------------------------------------------------------------


def _reader(option: inspect.Parameter) -> Callable[[str], Any]:
    """What turns a word into the value of an option; files are left as a `Path`."""
    kind = _kind(option)

    def read(word: str) -> Any:
        if option.name in PARAMETERS:
            try:
                return PARAMETERS[option.name].check(_value(word))
            except ParameterError as error:
                raise argparse.ArgumentTypeError(str(error)) from error
        if kind == "str":
            return _value(word) if "float" in option.annotation else word
        value = _value(word)
        if kind == "Any":
            return Path(value) if isinstance(value, str) else value
        types, what = _KINDS[kind]
        if not isinstance(value, types):
            raise argparse.ArgumentTypeError(f"{word!r} is not {what}.")
        return value

    return read


def _number(word: str) -> float | None:
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            pass
    return None


def _value(word: str) -> Any:
    """A number, a tuple of numbers, or the word itself."""
    numbers = tuple(_number(part) for part in word.split(","))
    if None in numbers:
        return word
    return numbers[0] if len(numbers) == 1 else numbers


def _read_pair(word: str) -> tuple[str, Any]:
    name, equals, value = word.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{word!r}: write NAME=VALUE.")
    switch = {"true": True, "false": False}
    return name.replace("-", "_"), switch.get(value.lower(), _value(value))


def _read_fixed(word: str) -> tuple[str, Any]:
    name, _ = _read_pair(word)
    options = inspect.signature(methods.reconstruct_ptycho).parameters
    known = [n for n in options if n not in _OTHERWISE]
    if name not in known:
        raise argparse.ArgumentTypeError(f"there is no parameter {name!r}{_hint(name, known)}.")
    return name, _reader(options[name])(word.partition("=")[2])


def _read_range(word: str) -> tuple[str, Any]:
    name, equals, values = word.partition("=")
    name = name.replace("-", "_")
    if name not in PARAMETERS:
        hint = _hint(name, PARAMETERS)
        raise argparse.ArgumentTypeError(f"there is no parameter {name!r}{hint}.")
    if not equals:
        return name, None
    if ":" not in values:
        choices = [v if (n := _number(v)) is None else n for v in values.split(",")]
        return name, choices if len(choices) > 1 else choices[0]
    low, high, *scale = values.split(":")
    limits = (_number(low), _number(high))
    if None in limits or scale not in ([], ["log"]):
        raise argparse.ArgumentTypeError(
            f"{word!r}: write NAME, NAME=LOW:HIGH, NAME=LOW:HIGH:log or NAME=A,B,C."
        )
    if limits[0] >= limits[1]:
        raise argparse.ArgumentTypeError(f"{word!r}: the lower limit has to come first.")
    return name, (*limits, *scale)


def _gathered(what: str, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    gathered = dict(pairs)
    if len(gathered) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"--{'tune' if what == 'parameters' else what} {twice} is given twice.")
    return gathered


# --- the words themselves ---------------------------------------------------------------------


def _spelled(words: Sequence[str]) -> list[str]:
    """Options with hyphens, and negative numbers so that they are not taken for options."""
    spelled: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        if word.startswith("--"):
            spelled.append(name.replace("_", "-") + equals + value)
        elif spelled and re.fullmatch(r"--[^=]+", spelled[-1]) and re.match(r"-[\d.]", word):
            spelled[-1] += f"={word}"
        else:
            spelled.append(word)
    return spelled


def _not_understood(word: str, command: str) -> str:
    if not word.startswith("-"):
        return f"{word!r} is one word too many: one FILE is read, and every option begins with --."
    word = word.partition("=")[0]
    name = word.lstrip("-").replace("-", "_")
    if command == "autotune" and name in PARAMETERS:
        return (
            f"autotune has no option {word}: hold the parameter with --fixed {name}=VALUE or tune "
            f"it with --tune {name}=LOW:HIGH."
        )
    known = inspect.signature(COMMANDS[command].method).parameters
    close = difflib.get_close_matches(name, [n for n in known if n not in _OTHERWISE], 1)
    hint = f"; did you mean --{close[0].replace('_', '-')}?" if close else "."
    return f"{command} has no option {word}{hint} `hs-autoptycho {command} --help` lists them."


def _hint(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {close[0]!r}" if close else ""


class _Formatter(argparse.HelpFormatter):
    """Does not break the names of options."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


class _Parser(argparse.ArgumentParser):
    """One that says one sentence of what is wrong, without a list of all options."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message.rstrip('.')}; `{self.prog} --help` tells more.")


class _Version(argparse.Action):
    """Looks the version up when it is asked for."""

    def __init__(self, option_strings, dest, help=None):
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser, namespace, values, option_string=None):
        from hs_autoptycho import __version__

        parser.exit(message=f"hs-autoptycho {__version__}\n")

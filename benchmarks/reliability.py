"""How the methods stand bad inputs, and what else may go wrong around them.

    python benchmarks/reliability.py inputs [--group GROUP ...] [--method METHOD ...] [--cells]

prints what was tried and what each got. Every section is a file of its own, ``reliability_*.py``,
with a function that adds its options and one that runs it.
"""

from __future__ import annotations

import argparse
import sys

import reliability_inputs

# name: module with DESCRIPTION, add_options(parser) and run(arguments) -> number of what went wrong
SECTIONS = {"inputs": reliability_inputs}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sections = parser.add_subparsers(dest="section", required=True)
    for name, module in SECTIONS.items():
        module.add_options(sections.add_parser(name, help=module.DESCRIPTION))
    arguments = parser.parse_args()
    return 1 if SECTIONS[arguments.section].run(arguments) else 0


if __name__ == "__main__":
    sys.exit(main())

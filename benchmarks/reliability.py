"""How the methods stand bad inputs, and what else may go wrong around them.

    python benchmarks/reliability.py inputs [--group GROUP ...] [--method METHOD ...] [--cells]
    python benchmarks/reliability.py faults [--part PART ...] [--times N]
    python benchmarks/reliability.py long [--work WORK ...] [--trials N]
    python benchmarks/reliability.py memory [--gb GB] [--limit GB] [--folder DIR] [--method METHOD]

The first prints what was tried and what each got, the second the faults that were injected and what
was lost, the third what 500 trials, 50 clusterings and 30 reconstructions in one process leave
behind, the fourth what a scan larger than memory needs. Every section is a file of its own,
``reliability_*.py``, with a function that adds its options and one that runs it.
"""

from __future__ import annotations

import argparse
import sys

import reliability_faults
import reliability_inputs
import reliability_long
import reliability_memory

# name: module with DESCRIPTION, add_options(parser) and run(arguments) -> number of what went wrong
SECTIONS = {
    "inputs": reliability_inputs,
    "faults": reliability_faults,
    "long": reliability_long,
    "memory": reliability_memory,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sections = parser.add_subparsers(dest="section", required=True)
    for name, module in SECTIONS.items():
        module.add_options(sections.add_parser(name, help=module.DESCRIPTION))
    arguments = parser.parse_args()
    return 1 if SECTIONS[arguments.section].run(arguments) else 0


if __name__ == "__main__":
    sys.exit(main())

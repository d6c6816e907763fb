"""pr1kit: a notebook-first research kit for perception-policy learning.

    Sample(image, task, question, target) → completions → parse → score → advantages → update

The public names stand in `__init__.pyi` and are imported when first asked for: what needs NumPy only never waits for
torch.

Importing the kit sets `GOMP_SPINCOUNT`, unless it or `OMP_WAIT_POLICY` is set already: torch's OpenMP threads spin at
barriers, and beside other processes that hold the cores a training step then takes many times as long: measured in
data/benchmarks/busy_machine_cpu.csv by tests/benchmarks/bench_busy_machine.py. OpenMP reads it once, when torch is
imported; for a script that imports torch before the kit, set it in the shell.
"""

import os

import lazy_loader

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

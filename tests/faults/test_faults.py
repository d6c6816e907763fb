"""A short round of the fault suite; `make faults` is the long one, its table in `data/benchmarks/faults.md`."""

import subprocess
import sys
from pathlib import Path


def test_nothing_is_lost_and_nothing_mistaken():
    attacks = Path(__file__).with_name("attacks.py")
    done = subprocess.run(
        [sys.executable, attacks, "--kills", "4", "--sample", "8"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-3000:]}"
    assert "| **all** | 16 |" in done.stdout  # 4 kills, 1 in a save, 1 Ctrl+C, 1 process, 1 disk, 8 of the rest

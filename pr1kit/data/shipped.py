"""Data that come with the kit: the tiny policy, a log of rollouts, the logs of the experiments."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def shipped(name: str) -> Path:
    """The folder of these data: in the package where it is installed, in `data/` in a checkout."""
    installed = PACKAGE / "shipped" / name
    return installed if installed.is_dir() else PACKAGE.parent / "data" / name

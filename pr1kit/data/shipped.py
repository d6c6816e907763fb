"""Data that come with the kit: the tiny policies, a log of rollouts, the logs of the experiments."""

from pathlib import Path

# name of a policy: its folder
POLICIES = {"tiny": "tiny-policy", "tiny-demo": "tiny-demo", "tiny-video": "tiny-video", "tiny-cells": "tiny-cells"}
PACKAGE = Path(__file__).resolve().parents[1]


def shipped(name: str) -> Path:
    """The folder of these data: in the package where it is installed, in `data/` in a checkout."""
    installed = PACKAGE / "shipped" / name
    return installed if installed.is_dir() else PACKAGE.parent / "data" / name


def policy_folder(name: str) -> Path | None:
    """The folder of the policy that comes with the kit under this name, None where none does."""
    return shipped(POLICIES[name]) if name in POLICIES else None

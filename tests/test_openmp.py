"""Importing the kit tells OpenMP how long to spin before torch starts it, unless the user has said so."""

import os
import subprocess
import sys

import pytest

import pr1kit

NAMES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def environment(**changes) -> dict:
    return {name: value for name, value in os.environ.items() if name not in NAMES} | changes


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")],
    ids=["nothing", "a count", "a policy"],
)
def test_the_runtime_sees_the_setting(given, spins):
    code = "import pr1kit, torch"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(OMP_DISPLAY_ENV="verbose", **given),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("torch's OpenMP here is not GNU's")
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr


def test_these_tests_run_with_it():
    assert pr1kit.__version__
    assert set(NAMES) & set(os.environ)

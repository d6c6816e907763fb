"""The kit's requirements, each at its lower bound: what `make test-lowest` installs.

    python tests/environments/lowest.py | uv pip compile - --output-file lowest.txt

Every direct requirement of the kit, of the extras named below and nothing else, so that a bound which cannot be
installed, or with which a test fails, is found. What these require themselves is the newest that fits.
"""

import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

EXTRAS = ("chinese", "test", "trackers")


def lowest(requirement: str) -> str:
    """`name==bound`. Raises ValueError where the requirement names no lower bound.

    >>> lowest("numpy>=2.0,<3")
    'numpy==2.0'
    """
    parsed = Requirement(requirement)
    bounds = [each.version for each in parsed.specifier if each.operator in (">=", "==")]
    if not bounds:
        raise ValueError(f"{requirement!r} names no lower bound.")
    return f"{parsed.name}=={bounds[0]}"


def main() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(each for name in EXTRAS for each in project["optional-dependencies"][name])]
    sys.stdout.write("".join(f"{lowest(each)}\n" for each in wanted))


if __name__ == "__main__":
    main()

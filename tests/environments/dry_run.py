"""What would `pip install pr1kit` change where torch and transformers are installed already? Installs nothing.

    python tests/environments/dry_run.py                       # a GPU image: torch 2.11, transformers 5.17
    pip freeze > mine.txt; python tests/environments/dry_run.py mine.txt [EXTRA …]

uv resolves the kit's requirements and keeps what is there wherever the bounds allow it. Ends with 1 where torch or
transformers would be replaced. Needs uv: pip install uv. Done for real with the notebooks' own command (two CPU cores,
nothing cached), `pip install --quiet .` took 9 s beside gpu-image.txt and added anywidget, lazy-loader, psygnal,
pycocotools, RapidFuzz, trl, voila, websockets and the kit; torch 2.11.0 and transformers 5.17.0 stayed.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
KEPT = ("torch", "torchvision", "transformers", "numpy", "pillow")


def pins(text: str) -> dict[str, str]:
    """Versions by name in the lines of `pip freeze`.

    >>> pins("Torch==2.11.0 # here\\n-e .\\nnumpy==2.3.5")
    {'torch': '2.11.0', 'numpy': '2.3.5'}
    """
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;#]+)", text, re.MULTILINE)
    return {name.lower().replace("_", "-"): version for name, version in found}


def changes(before: str, extras: list[str]) -> tuple[dict, dict]:
    """`(replaced, added)`: name to (old, new), and name to version, after the kit is installed beside `before`."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "after.txt"
        out.write_text("".join(f"{name}=={version}\n" for name, version in pins(before).items()))
        command = [
            sys.executable,
            "-m",
            "uv",
            "pip",
            "compile",
            "--quiet",
            "--output-file",
            out,
            ROOT / "pyproject.toml",
        ]
        subprocess.run([*command, *(f"--extra={name}" for name in extras)], check=True)
        old, new = pins(before), pins(out.read_text())
    replaced = {name: (old[name], new[name]) for name in new if name in old and old[name] != new[name]}
    return replaced, {name: version for name, version in new.items() if name not in old}


def main(arguments: list[str]) -> int:
    file = Path(arguments[0]) if arguments else HERE / "gpu-image.txt"
    before = file.read_text()
    replaced, added = changes(before, arguments[1:])
    print(f"pr1kit beside what {file.name} has:")
    print(
        "  stays:   ",
        ", ".join(f"{name} {pins(before)[name]}" for name in KEPT if name in pins(before) and name not in replaced),
    )
    print("  replaced:", ", ".join(f"{name} {old} → {new}" for name, (old, new) in replaced.items()) or "nothing")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    own = [name for name in added if any(re.match(rf"{name}\b(?!-)", each) for each in project["dependencies"])]
    print(
        f"  added:    {', '.join(own) or 'nothing'}, and {len(added) - len(own)} packages that those and torch require"
    )
    return int(any(name in replaced for name in ("torch", "transformers")))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

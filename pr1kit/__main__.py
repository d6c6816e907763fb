"""The command line, `python -m pr1kit`: demo, train, eval, reflect, experiments, explore, doctor, make-tiny-policy."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

SETTINGS_COMMANDS = {
    "train": "train a policy on your data",
    "eval": "measure a model on benchmark files, beside the paper's numbers",
    "reflect": "let a policy and a critic take turns over pictures",
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pr1kit", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    demo = commands.add_parser("demo", help="train the tiny policy with GRPO and measure it before and after")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), help="results (default: %(default)s)")
    demo.add_argument("--seeds", type=int, nargs="+", default=[0], help="one run each; several give one table")
    demo.add_argument("--fresh", action="store_true", help="begin anew instead of resuming what --out holds")
    demo.add_argument("--fast", action="store_true", help="a few steps and scenes, to see that it runs")
    demo.set_defaults(run=_demo)

    explore = commands.add_parser("explore", help="the reward explorer in the browser: drag a box, see what it is paid")
    explore.add_argument("path", nargs="?", help="a run with its rollouts, a picture or a video (default: a scene)")
    explore.add_argument("annotations", nargs="?", help="JSON with what is true of it: boxes, labels, text, tracks")
    explore.add_argument("--port", type=int, default=8866, help="default: %(default)s, or the next that is free")
    explore.add_argument("--no-browser", action="store_true", help="print the address and open nothing")
    explore.add_argument(
        "--export", type=Path, metavar="FOLDER", help="write a page of the run there, without a server"
    )
    explore.set_defaults(run=_explore)

    doctor = commands.add_parser("doctor", help="what this machine has, what of it works, which profile it is for")
    doctor.add_argument("--json", action="store_true", help="print JSON, to attach to an issue")
    doctor.add_argument("--device", help="cpu, cuda, cuda:1 (default: the GPU where there is one)")
    doctor.set_defaults(run=_doctor)

    tiny = commands.add_parser(
        "make-tiny-policy", help="train the tiny policy, or one of your photographs, from nothing"
    )
    tiny.add_argument("--out", type=Path, help="default: its folder in data/; with --data runs/policy-<its name>")
    tiny.add_argument("--work", type=Path, help="its checkpoints (default: runs/make-tiny-policy, or make-<its name>)")
    tiny.add_argument("--demo", action="store_true", help="the demo's: the tiny policy, taught on for half an hour")
    tiny.add_argument("--video", action="store_true", help="the one that sees clips, from the one that sees images")
    tiny.add_argument("--data", type=Path, help="your photographs with their boxes: a COCO file or folder, or VOC")
    tiny.add_argument("--split", help="with --data: which split of it")
    tiny.add_argument(
        "--task", choices=("counting", "detection"), default="counting", help="with --data: what to teach"
    )
    tiny.add_argument("--crop", type=int, default=240, help="with --data: side of a crop, seen at 64 pixels")
    tiny.add_argument("--any-side-up", action="store_true", help="with --data: pictures may be turned and mirrored")
    tiny.add_argument("--seed", type=int, default=0)
    tiny.add_argument("--fast", action="store_true", help="a few steps, to see that it runs: a useless policy")
    tiny.set_defaults(run=_make_tiny_policy)

    for name, words in SETTINGS_COMMANDS.items():  # these read settings from YAML and flags by themselves
        commands.add_parser(name, help=words, add_help=False)

    grids = commands.add_parser("experiments", help="run what is left of the grids that test the paper's claims")
    grids.add_argument("names", nargs="*", help="which grids; all where none is named")
    grids.add_argument("--out", type=Path, help="default: data/runs; with the options below runs/experiments-<which>")
    grids.add_argument("--policy", default="tiny", help="a folder or a model of the hub instead of the tiny policy")
    grids.add_argument("--seeds", type=int, nargs="+", help="instead of each grid's own")
    size = grids.add_mutually_exclusive_group()
    size.add_argument("--fast", action="store_true", help="four steps, eight scenes, one seed: to see that it runs")
    size.add_argument("--full", action="store_true", help="200 steps, 1000 scenes, five seeds: for a GPU")
    grids.add_argument("--claims", action="store_true", help="run nothing: what the logs say of the paper's claims")
    grids.add_argument("--write", action="store_true", help="with --claims: write them all to README.md of the logs")
    grids.set_defaults(run=_experiments)

    argv = sys.argv[1:] if argv is None else argv
    try:
        if argv[:1] and argv[0] in SETTINGS_COMMANDS:
            return _settings_command(argv[0], argv[1:])
        arguments = parser.parse_args(argv)
        return arguments.run(arguments)
    except (ValueError, OSError, MemoryError) as error:
        print(f"pr1kit: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\npr1kit: stopped; what is done is saved, the same command goes on from there.", file=sys.stderr)
        return 130


def _settings_command(name: str, flags: list[str]) -> int:
    if name == "train":
        from pr1kit.training.command import main as run
    elif name == "reflect":
        from pr1kit.evaluation.reflect_command import main as run
    else:
        from pr1kit.evaluation.command import main as run
    return run(flags)


def _demo(arguments) -> int:
    from pr1kit.experiments.demo import run_demo

    run_demo(arguments.out, arguments.seeds, fresh=arguments.fresh, small=arguments.fast)
    return 0


def _explore(arguments) -> int:
    if arguments.export:
        from pr1kit.explorer.export import export_explorer

        if arguments.path is None or arguments.annotations:
            raise ValueError("--export needs a run's folder: python -m pr1kit explore runs/demo --export site.")
        print(export_explorer(arguments.path, arguments.export))
        return 0
    from pr1kit.explorer.page import serve_explorer

    serve_explorer(arguments.path, arguments.annotations, port=arguments.port, browser=not arguments.no_browser)
    return 0


def _doctor(arguments) -> int:
    import json

    from pr1kit.training.doctor import examine, page

    found = examine(arguments.device)
    print(json.dumps(found, indent=1) if arguments.json else page(found))
    return 1 if found["problems"] else 0


def _make_tiny_policy(arguments) -> int:
    from dataclasses import replace

    if arguments.data:
        return _make_own_policy(arguments)
    if arguments.video:
        return _make_tiny_video_policy(arguments)
    from pr1kit.experiments.tiny_policy.warm_start import DEMO_RECIPE, Recipe, make_tiny_policy

    name, recipe = ("tiny-demo", DEMO_RECIPE) if arguments.demo else ("tiny-policy", Recipe())
    recipe = replace(recipe, seed=recipe.seed + arguments.seed)
    out, work = arguments.out or Path("data") / name, arguments.work or Path(f"runs/make-{name}")
    if arguments.fast:
        lessons = tuple(replace(lesson, steps=2) for lesson in recipe.lessons)
        recipe = replace(recipe, vision_steps=2, vision_batch=8, lessons=lessons)
    make_tiny_policy(out, recipe, work=work, held_out=8 if arguments.fast else 500)
    print((out / "README.md").read_text())
    return 0


def _make_tiny_video_policy(arguments) -> int:
    from dataclasses import replace

    from pr1kit.experiments.tiny_policy.video import ClipRecipe, make_tiny_video_policy

    out, work = arguments.out or Path("data/tiny-video"), arguments.work or Path("runs/make-tiny-video")
    recipe = ClipRecipe(seed=arguments.seed)
    if arguments.fast:
        lessons = tuple(replace(lesson, steps=2, clips=4) for lesson in recipe.lessons)
        recipe = replace(recipe, vision_steps=2, vision_clips=4, lessons=lessons)
    make_tiny_video_policy(out, recipe, work=work, held_out=2 if arguments.fast else 100)
    print((out / "README.md").read_text())
    return 0


def _make_own_policy(arguments) -> int:
    from dataclasses import replace

    from pr1kit.experiments.tiny_policy.own_data import OwnRecipe, make_own_policy

    said = {name: getattr(arguments, name) for name in ("task", "crop", "any_side_up", "seed")}
    recipe = OwnRecipe(**said)
    if arguments.fast:
        recipe = replace(recipe, vision_steps=2, steps=2, batch=8, pool=32)
    name = arguments.data.absolute().stem
    out, work = arguments.out or Path(f"runs/policy-{name}"), arguments.work or Path(f"runs/make-{name}")
    make_own_policy(arguments.data, out, recipe, work=work, split=arguments.split, most=8 if arguments.fast else None)
    print((out / "README.md").read_text())
    return 0


def _experiments(arguments) -> int:
    from dataclasses import replace

    from pr1kit.data.durable_files import write_atomically
    from pr1kit.experiments.grid import fast, full, of_policy
    from pr1kit.experiments.paper_claims import claim_table, claims_page
    from pr1kit.experiments.paper_grids import GRIDS
    from pr1kit.experiments.runner import run_grid
    from pr1kit.experiments.runs import ROOT

    if unknown := [name for name in arguments.names if name not in GRIDS]:
        raise ValueError(f"Unknown experiment {', '.join(unknown)}: choose from {', '.join(GRIDS)}.")
    if arguments.claims:
        root = arguments.out or ROOT
        print(claim_table(*arguments.names, root=root) if arguments.names else claims_page(root))
        if arguments.write:
            write_atomically(root / "README.md", claims_page(root))
            print(f"\nWritten to {root / 'README.md'}.")
        return 0
    size = "fast" if arguments.fast else "full" if arguments.full else None
    which = filter(None, (None if arguments.policy == "tiny" else Path(arguments.policy).name, size))
    work = Path("-".join(("runs/experiments", *which)))
    out = arguments.out or (ROOT if work.name == "experiments" else work)
    for name in arguments.names or GRIDS:
        grid = of_policy(GRIDS[name], arguments.policy)
        grid = fast(grid) if arguments.fast else full(grid) if arguments.full else grid
        if arguments.seeds:
            grid = replace(grid, seeds=tuple(arguments.seeds), seeds_of={})
        run_grid(grid, out, work=work)
    print(f"Finished; the logs are in {out}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

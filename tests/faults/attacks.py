"""Kills, damage, full disks, swapped data and second processes against a run's folder; `make faults` runs them all.

    python tests/faults/attacks.py --kills 200 --out data/benchmarks/faults.md

Every attack ends in a call of the same command. What counts is how that ends: equal to the run that nobody disturbed,
refused or said in a sentence, or one of three faults: lost (less is there than was known), mistaken (another result,
without a word), a traceback. Training is that of a small random policy of the real class; each attack runs in a forked
process.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # forked processes inherit no threads
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from conftest import save_small_policy

from pr1kit import load_policy, make_scenes
from pr1kit.data.durable_files import read_log
from pr1kit.training.grpo import train_grpo
from pr1kit.training.grpo_settings import TINY
from pr1kit.training.weights import trained_weights

RUN = replace(TINY, steps=5, prompts_per_step=2, micro_prompts=2, num_generations=4, max_completion_length=8)
DAMAGES = ("missing", "empty", "cut", "garbled")


class Victim:
    """One training run, and what it ends with when nobody disturbs it."""

    def __init__(self, home: Path):
        self.home = home
        self.policy = save_small_policy("qwen2_5_vl", home / "policy")
        self.samples = make_scenes("ocr", 6)
        self.whole = home / "whole"
        started = time.perf_counter()
        assert self.call(self.whole) == "ended", "the undisturbed run must end"
        self.seconds = time.perf_counter() - started
        self.end = digest(self.whole)

    def train(self, folder: Path, samples=None, settings=RUN) -> None:
        policy = load_policy(self.policy, verbose=False)
        train_grpo(policy, samples or self.samples, folder, settings)
        total = hashlib.sha256()
        for name, value in sorted(trained_weights(policy.model).items()):
            total.update(name.encode() + value.numpy().tobytes())
        (folder / "end.txt").write_text(total.hexdigest())

    def start(self, folder: Path, *, before=None, **options) -> int:
        """The same command in a process of its own; returns its number."""
        if pid := os.fork():
            return pid
        code = 3
        with open(folder.with_suffix(".said"), "w") as said:
            try:
                with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
                    if before:
                        before()
                    self.train(folder, **options)
                code = 0
            except (ValueError, OSError, MemoryError) as error:  # what the commands say in a sentence
                said.write(str(error))
                code = 2
            except KeyboardInterrupt as error:
                said.write(str(error))
                code = 130
            except BaseException:
                said.write(traceback.format_exc())
            finally:
                said.flush()
                os._exit(code)

    def call(self, folder: Path, **options) -> str:
        """The same command, waited for: how it ended."""
        return self.wait(self.start(folder, **options))

    def wait(self, pid: int) -> str:
        status = os.waitpid(pid, 0)[1]
        code = os.waitstatus_to_exitcode(status)
        return {0: "ended", 2: "refused", 130: "interrupted", 3: "traceback"}.get(code, "killed")

    def verdict(self, folder: Path, known: int = 0, calls: int = 3) -> str:
        """Call the command until it ends or has refused for good; what came of the run, of which `known` steps were
        logged."""
        for _ in range(calls):
            how = self.call(folder)
            if how == "traceback":
                return "traceback"
            if how == "ended":
                end, said = digest(folder), folder.with_suffix(".said").read_text()
                if end == self.end:
                    return "equal"
                return "said" if end[:2] == self.end[:2] and "rollouts.jsonl" in said else "mistaken"
        copies = [len(lines(path)) for path in folder.glob("log*.jsonl")]
        return "refused" if max(copies, default=0) >= known else "lost"


def digest(folder: Path) -> tuple:
    """What a finished run has: weights, rewards of each step, answers of each group."""
    rewards = [(row["step"], row["reward"]) for row in read_log(folder / "log.jsonl")]
    log = folder / "rollouts.jsonl"
    groups = [(row["step"], row["id"], row["completions"]) for row in (read_log(log) if log.exists() else [])]
    return (folder / "end.txt").read_text(), json.dumps(rewards), json.dumps(groups)


def lines(path: Path) -> list[bytes]:
    return [line for line in path.read_bytes().split(b"\n") if line.startswith(b"{")]


def kill(victim: Victim, folder: Path, draw: random.Random) -> str:
    """`kill -9` at a random moment, from the first step to the end, saves included."""
    pid = victim.start(folder)
    time.sleep(draw.uniform(0.1, 1.0) * victim.seconds)
    os.kill(pid, signal.SIGKILL)
    victim.wait(pid)
    return victim.verdict(folder)


def kill_in_a_save(victim: Victim, folder: Path, draw: random.Random) -> str:
    """`kill -9` while a checkpoint is being written."""
    pid, aside = victim.start(folder), folder / ".saving"
    wanted = draw.randint(1, RUN.steps)
    while not list(aside.glob(f"checkpoint-{wanted}/*")) and os.waitpid(pid, os.WNOHANG)[0] == 0:
        time.sleep(0.001)
    time.sleep(draw.uniform(0, 0.03))
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        victim.wait(pid)
    return victim.verdict(folder)


def interrupt_twice(victim: Victim, folder: Path, draw: random.Random) -> str:
    """Ctrl+C, and again before the first has saved."""
    pid = victim.start(folder)
    time.sleep(draw.uniform(0.1, 0.9) * victim.seconds)
    for _ in range(2):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
        time.sleep(draw.uniform(0, 0.1))
    victim.wait(pid)
    return victim.verdict(folder)


def two_processes(victim: Victim, folder: Path, draw: random.Random) -> str:
    """A second process on the same folder, started at a random moment."""
    pid = victim.start(folder)
    while not (folder / ".holder").exists():
        time.sleep(0.01)
    time.sleep(draw.uniform(0, 0.5) * victim.seconds)
    other = folder.with_name(f"{folder.name}-other")
    other.symlink_to(folder)
    second, first = victim.call(other), victim.wait(pid)
    if first != "ended" or second not in ("refused", "ended"):
        return "traceback" if "traceback" in (first, second) else "mistaken"
    return "equal" if digest(folder) == victim.end else "mistaken"


def full_disk(victim: Victim, folder: Path, draw: random.Random) -> str:
    """No file may grow beyond a random size (`ulimit -f`); then there is room again."""
    largest = max(path.stat().st_size for path in victim.whole.rglob("*") if path.is_file())
    size = int(draw.uniform(0.001, 1) * largest)

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    how = victim.call(folder, before=limit)
    return how if how == "traceback" else victim.verdict(folder)


def damage(path: Path, how: str, draw: random.Random) -> None:
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(content[: draw.randrange(max(len(content), 1))])
    else:
        at = draw.randrange(max(len(content), 1))
        path.write_bytes(content[:at] + bytes(draw.randrange(256) for _ in range(16)) + content[at + 16 :])


def damaged_file(name: str, how: str, *, finished: bool):
    """One file of a run that was cut off after its fourth step, or has finished, damaged."""

    def attack(victim: Victim, folder: Path, draw: random.Random) -> str:
        shutil.copytree(victim.whole, folder)
        known = len(lines(folder / "log.jsonl"))
        if not finished:
            shutil.rmtree(folder / f"checkpoint-{RUN.steps}")
            (folder / "finished.json").unlink()
        newest = f"checkpoint-{RUN.steps if finished else RUN.steps - 1}"
        damage(folder / name.replace("NEWEST", newest), how, draw)
        return victim.verdict(folder, known)

    return attack


def swapped(change):
    """Something else under the same names: the run must not go on as if nothing were."""

    def attack(victim: Victim, folder: Path, draw: random.Random) -> str:
        shutil.copytree(victim.whole, folder)
        shutil.rmtree(folder / f"checkpoint-{RUN.steps}")
        (folder / "finished.json").unlink()
        how = victim.call(folder, **change(victim))
        return {"refused": "refused", "traceback": "traceback"}.get(how, "mistaken")

    return attack


def other_truth(victim):
    moved = [replace(s, target=replace(s.target, text=s.target.text + "x")) for s in victim.samples[:1]]
    return {"samples": [*moved, *victim.samples[1:]]}


def other_pictures(victim):
    return {"samples": [replace(victim.samples[0], image=victim.samples[1].image), *victim.samples[1:]]}


def other_order(victim):
    return {"samples": victim.samples[::-1]}


def other_settings(victim):
    return {"settings": replace(RUN, temperature=0.9)}


def attacks(folder: Path, kills: int, damages: int) -> list[tuple[str, object, int]]:
    """(name, attack, times) of all attacks; file names are those of a finished run's `folder`."""
    newest = folder / f"checkpoint-{RUN.steps}"
    files = [path.name for path in folder.iterdir() if path.is_file() and path.name not in (".lock", "end.txt")]
    files += [f"NEWEST/{path.name}" for path in newest.iterdir()]
    plan = [
        ("kill -9 at a random moment", kill, kills),
        ("kill -9 during a save", kill_in_a_save, kills // 4),
        ("Ctrl+C twice", interrupt_twice, kills // 4),
        ("a second process on the folder", two_processes, max(1, kills // 20)),
        ("a full disk, then room again", full_disk, max(1, kills // 10)),
    ]
    for how in DAMAGES:
        for finished in (False, True):
            for name in sorted(files):
                state = "finished run" if finished else "run cut off"
                if finished or name != "finished.json":
                    plan.append((f"{how} file, {state}", damaged_file(name, how, finished=finished), damages))
    for change in (other_truth, other_pictures, other_order, other_settings):
        plan.append((f"{change.__name__.replace('_', ' ')}, same names", swapped(change), 1))
    return plan


def run(kills: int, damages: int, seed: int = 0, sample: int | None = None) -> dict[str, Counter]:
    """How each attack ended, counted."""
    torch.set_num_threads(1)
    outcomes: dict[str, Counter] = {}
    with tempfile.TemporaryDirectory(prefix="pr1kit-faults-") as home:
        victim = Victim(Path(home))
        draw, number = random.Random(seed), 0
        plan = attacks(victim.whole, kills, damages)
        few = plan if sample is None else [*plan[:5], *draw.sample(plan[5:], sample)]
        for name, attack, times in few:
            for _ in range(times):
                folder = Path(home) / f"run-{number}"
                number += 1
                outcome = attack(victim, folder, draw)
                outcomes.setdefault(name, Counter())[outcome] += 1
                if outcome not in ("equal", "said", "refused"):
                    print(f"{name}: {outcome}: {folder.with_suffix('.said').read_text()[-600:]}", file=sys.stderr)
                shutil.rmtree(folder, ignore_errors=True)
    return outcomes


def table(outcomes: dict[str, Counter]) -> str:
    """Markdown: a row for each attack."""
    kinds = ("equal", "said", "refused", "lost", "mistaken", "traceback")
    head = (
        "attack",
        "times",
        "went on, ended equal",
        "equal, but for groups in the rollout log, named",
        "refused in a sentence",
    )
    rows = [f"| {' | '.join((*head, 'lost', 'mistaken', 'tracebacks'))} |", "|---" * 8 + "|"]
    total: Counter = sum(outcomes.values(), Counter())
    for name, counts in [*outcomes.items(), ("**all**", total)]:
        rows.append(f"| {name} | {sum(counts.values())} | {' | '.join(str(counts[kind]) for kind in kinds)} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--damages", type=int, default=1, help="of each file, in each way")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sample", type=int, help="so many of the damages and swaps, drawn at random")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    outcomes = run(arguments.kills, arguments.damages, arguments.seed, arguments.sample)
    print(found := table(outcomes))
    if arguments.out:
        command = f"python tests/faults/attacks.py --kills {arguments.kills} --damages {arguments.damages}"
        title = "# Faults: what was tried against a run's folder, and how it ended"
        about = f"`{command}`, seed {arguments.seed}: a GRPO run of {RUN.steps} steps that saves each, in `train_grpo`."
        arguments.out.write_text(f"{title}\n\n{about}\n\n{found}")
    faults = sum((counts[kind] for counts in outcomes.values() for kind in ("lost", "mistaken", "traceback")), 0)
    sys.exit(1 if faults else 0)

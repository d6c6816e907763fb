"""pr1kit: a notebook-first research kit for perception-policy learning.

    Sample(image, task, question, target) → completions → parse → score → advantages → update

Everything up to the scores needs NumPy only; what needs torch is imported when it is first asked for.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOME = {
    "Answer": "sample",
    "RewardResult": "sample",
    "Rollout": "sample",
    "Sample": "sample",
    "Target": "sample",
    "load_dataset": "datasets",
    "save_official": "datasets.official",
    "make_scenes": "datasets.scenes",
    "parse": "parsing",
    "reward_function": "rewards",
    "score": "rewards",
    "score_batch": "rewards",
    "RewardExplorer": "explorer",
    "evaluate": "evaluation",
    "pass_at_k": "plots",
    "plot_before_after": "plots",
    "plot_boxes": "plots",
    "plot_matching": "plots",
    "plot_metric_intervals": "plots",
    "plot_ablation": "comparisons",
    "plot_gain_vs_headroom": "comparisons",
    "plot_pass_at_k": "plots",
    "plot_perplexity": "comparisons",
    "plot_scaling": "comparisons",
    "plot_reward_curves": "plots",
    "plot_reward_histogram": "plots",
    "plot_rollout_group": "plots",
    "Policy": "policy",
    "load_policy": "policy",
    "generate_completions": "rollout",
    "sample_rollouts": "rollout",
    "GRPOSettings": "settings",
    "LoRASettings": "adapters",
    "export_adapter": "adapters",
    "export_model": "adapters",
    "estimate_memory": "memory",
    "PerceptionGRPOTrainer": "trainer",
    "train_grpo": "grpo",
    "read_log": "run_log",
    "train_sft": "sft",
    "perceptual_perplexity": "complexity",
    "rl_headroom": "complexity",
}
__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'pr1kit' has no attribute {name!r}")
    return getattr(import_module(f"pr1kit.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__

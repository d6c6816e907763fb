"""pr1kit: a notebook-first research kit for perception-policy learning.

    Sample(image, task, question, target) → completions → parse → score → advantages → update

The public names stand in `__init__.pyi` and are imported when first asked for: what needs NumPy only never waits for
torch.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

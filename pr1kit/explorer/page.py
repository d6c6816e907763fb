"""`python -m pr1kit explore`: the reward explorer as a page of its own, served to this computer alone.

Voilà serves a notebook of one cell: its kernel takes messages from widgets and no code. It listens on 127.0.0.1,
answers to no other host name, and the address carries a token, so that no other page or person reaches it. Each page
has a kernel of its own, which ends with the page.
"""

from __future__ import annotations

import secrets
import signal
import tempfile
import webbrowser
from pathlib import Path
from shutil import rmtree

import numpy as np

from pr1kit.data.annotations import load_sample
from pr1kit.data.boxes import clip
from pr1kit.data.sample import Sample
from pr1kit.data.scenes import make_scenes
from pr1kit.explorer.widget import RewardExplorer
from pr1kit.rewards.notations import write_place

# Nothing is loaded but from this server (Voilà's template would ask a CDN for an icon font).
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "connect-src 'self' ws://127.0.0.1:* data: blob:; frame-ancestors 'self'; base-uri 'self'"
)
# A page that is closed or loaded again ends its kernel itself; where it cannot (a browser that crashed), the kernel is
# ended once no page has been connected and nothing was computed for this long, looked after every so often.
ABANDONED_AFTER, LOOK_EVERY = 45, 5  # seconds
ENDINGS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def open_explorer(path: str | Path | None = None, annotations: str | Path | None = None) -> RewardExplorer:
    """The explorer of a run folder, of a picture with its annotations, or of a scene with an imperfect answer.

    Raises FileNotFoundError or ValueError, one sentence, where there is nothing to show.
    """
    if path is not None and annotations is not None:
        return RewardExplorer(load_sample(path, annotations))
    if path is None:
        (scene,) = make_scenes("counting", 1, 3, num_objects=(4, 4), distractors=0, size=(16, 22), overlap=0.35)
        return RewardExplorer(scene, _sloppy(scene))
    path = Path(path)
    if path.is_file() and path.suffix != ".jsonl":
        raise ValueError(f"{str(path)!r} needs its annotations: python -m pr1kit explore {path.name} truth.json.")
    return RewardExplorer.from_run(path)


def serve_explorer(
    path: str | Path | None = None, annotations: str | Path | None = None, *, port: int = 8866, browser: bool = True
) -> None:
    """Serve `open_explorer(path, annotations)` until interrupted; prints the address, and opens it in the `browser`.

    A port that is taken gives way to one near it.
    """
    import nbformat
    from jupyter_core.utils import run_sync
    from tornado.ioloop import IOLoop
    from voila.app import Voila

    open_explorer(path, annotations).close()  # what cannot be opened is said here, not in the page
    places = [None if each is None else str(Path(each).resolve()) for each in (path, annotations)]
    source = f"from pr1kit.explorer.page import open_explorer\nopen_explorer({places[0]!r}, {places[1]!r})"
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)], metadata=kernel)
    token = secrets.token_urlsafe(16)

    class Page(Voila):
        def initialize(self, argv=None) -> None:
            super().initialize(argv)
            # Sets the cookie without which the server refuses what a page sends to end its kernel.
            self.voila_configuration.prelaunch_hook = lambda request, **_: request.xsrf_token and None

        def launch_browser(self) -> None:
            self.ioloop = IOLoop.current()
            for number in ENDINGS:  # stop the loop between two events: an exception in one of them could be lost
                signal.signal(number, self._handle_signal_stop)
            address = f"http://127.0.0.1:{self.port}/?token={token}"
            print(f"The reward explorer is at {address}\nCtrl+C ends it.", flush=True)
            if browser:
                webbrowser.open(address)

        def stop(self) -> None:
            for number in ENDINGS:
                signal.signal(number, signal.SIG_IGN)
            rmtree(self.connection_dir)
            run_sync(self.kernel_manager.shutdown_all)(now=True)  # kernels hold nothing that would have to be saved

    handlers = {number: signal.getsignal(number) for number in ENDINGS}
    with tempfile.TemporaryDirectory(prefix="pr1kit-explorer-") as folder:
        file = Path(folder) / "pr1kit explorer.ipynb"
        nbformat.write(notebook, file)
        options = {"ip": "127.0.0.1", "port": port, "token": token, "open_browser": True, "log_level": "ERROR"}
        kernels = {"cull_idle_timeout": ABANDONED_AFTER, "cull_interval": LOOK_EVERY}
        arguments = [str(file), *(f"--Voila.{name}={value}" for name, value in options.items())]
        arguments += [f"--MappingKernelManager.{name}={value}" for name, value in kernels.items()]
        # The cell runs when the page is there. In a page that comes after the cell ipywidgets 8.1.9 now and then gives
        # up on the widget a moment before it arrives: "model not found".
        arguments.append("--VoilaConfiguration.progressive_rendering=True")
        server = {"headers": {"Content-Security-Policy": POLICY}, "allow_remote_access": False}
        try:
            Page.launch_instance(arguments, tornado_settings=server)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)


def _sloppy(scene: Sample) -> str:
    """Every object boxed, in another order, each box a little off."""
    order = np.arange(len(scene.target.boxes))[::-1]
    off = np.random.default_rng(0).normal(0, 2.5, (len(order), 4))
    boxes = clip(np.round(scene.target.boxes[order] + off), scene.target.image_size or (64, 64))
    return "".join(write_place("pairs", box, scene.question) for box in boxes.tolist())

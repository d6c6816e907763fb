"""The reward explorer in a real browser: Chromium in front of JupyterLab, and of `python -m pr1kit explore`.

PR1KIT_PICTURES=folder keeps the screenshots.
"""

import json
import os
import re
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import matplotlib
import nbformat
import numpy as np
import psutil
import pytest
from PIL import Image

from pr1kit.data.boxes import box_iou, clip
from pr1kit.data.clips import make_clips
from pr1kit.data.scenes import make_scenes
from pr1kit.explorer.page import open_explorer
from pr1kit.rewards.groups import pair_weights
from pr1kit.rewards.score import score
from pr1kit.rewards.tasks import get_task

ROOT = Path(__file__).parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("CI"),
    reason="no Chromium: the explorer is not tested in a browser (on Debian, as root: apt-get install chromium)",
)
PATIENCE = 180_000  # ms for a server, a kernel or a page to start on a machine that is busy

SCENE, TEXT = open_explorer().sample, open_explorer().text
CELLS = (
    "from pr1kit.explorer.page import open_explorer\nopen_explorer()",
    "from pr1kit import RewardExplorer\nRewardExplorer.from_run('run')",
    "import json\nfrom pr1kit import Sample, Target\nshown = json.load(open('crowd.json'))\n"
    "sample = Sample('crowd.png', 'detection', 'all', Target.of(shown['target']))\n"
    "RewardExplorer(sample, shown['text'])",
)


def crowd() -> tuple:
    """A detection scene with 20 objects, and an answer with 20 boxes a little off."""
    options = {"num_objects": (20, 20), "size": (24, 40), "overlap": 0.2, "image_size": 256}
    scene = next(s for s in make_scenes("detection", 20, 1, **options) if len(s.target.boxes) == 20)
    off = np.random.default_rng(1).normal(0, 3, (20, 4))
    boxes = clip(np.round(scene.target.boxes + off), scene.target.image_size)
    items = [{"bbox_2d": box, "label": label} for box, label in zip(boxes.tolist(), scene.target.labels, strict=True)]
    return scene, json.dumps(items)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def settings(folder: Path) -> dict:
    """An environment in which nothing of this machine's own Jupyter is read or written, and this code is imported."""
    places = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    places |= {"HOME": str(folder), "IPYTHONDIR": str(folder / "ipython"), "MPLCONFIGDIR": matplotlib.get_cachedir()}
    return {**os.environ, **places, "PYTHONPATH": str(ROOT)}


@contextmanager
def running(command: list[str], folder: Path, **options):
    """A server and all that it starts, ended with the test."""
    process = subprocess.Popen(
        command, cwd=folder, env=settings(folder), stdin=subprocess.DEVNULL, start_new_session=True, **options
    )
    try:
        yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if process.poll() is None:
                os.killpg(process.pid, number)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(60)
        if process.stdout:
            process.stdout.close()


@pytest.fixture(scope="module")
def browser():
    assert CHROMIUM, "CI must test the explorer in a browser: apt-get install chromium"
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -e '.[dev]'")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab with the notebook of `CELLS`."""
    folder, port, token = tmp_path_factory.mktemp("lab"), free_port(), secrets.token_hex(8)
    write_run(folder / "notebooks" / "run")
    scene, text = crowd()
    scene.image.save(folder / "notebooks" / "crowd.png")
    shown = {"target": scene.target.to_dict(), "text": text}
    (folder / "notebooks" / "crowd.json").write_text(json.dumps(shown))
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "notebooks" / "try.ipynb")
    (folder / "config" / "labconfig").mkdir(parents=True)
    quiet = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    (folder / "config" / "labconfig" / "page_config.json").write_text(json.dumps(quiet))
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"]
    command += [f"--port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"]
    command += [f"--ServerApp.root_dir={folder / 'notebooks'}", "--LabApp.extension_manager=readonly"]
    command += ["--LabApp.expose_app_in_browser=True"]
    with (folder / "log").open("w") as log, running(command, folder, stdout=log, stderr=log) as server:
        address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE / 1000
        while not answers(f"{address}/api?token={token}"):
            assert server.poll() is None, (folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, "JupyterLab did not start: " + (folder / "log").read_text()[-2000:]
            time.sleep(0.2)
        yield f"{address}/lab/tree/try.ipynb?token={token}&reset"


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=60) as reply:
            return reply.status == 200
    except OSError:
        return False


def write_run(folder: Path) -> None:
    """Three steps of two groups, more and more of the objects found."""
    folder.mkdir(parents=True)
    lines = []
    for step in (1, 2, 3):
        for scene in make_scenes("counting", 2):
            write = get_task("counting").write_answer
            texts = [write({"boxes": scene.target.boxes[: k % (step + 1)]}, label=scene.question) for k in range(4)]
            rewards = [score("counting", text, scene.target).total for text in texts]
            spread = np.std(rewards, ddof=1) + 1e-4
            row = {"step": step, "id": scene.id, "prompt": get_task("counting").prompt(scene.question)}
            row |= {"completions": texts, "rewards": rewards}
            row["advantages"] = ((np.array(rewards) - np.mean(rewards)) / spread).tolist()
            lines.append(json.dumps(row) + "\n")
    (folder / "rollouts.jsonl").write_text("".join(lines))


class Explorer:
    """One explorer on a page, as a person sees and touches it."""

    def __init__(self, page, cell: int = 0):
        place = page.locator(".jp-CodeCell").nth(cell)
        place.scroll_into_view_if_needed(timeout=PATIENCE)  # what is out of sight may not be there yet
        self.page, self.root = page, place.locator(".pr1kit-explorer")
        self.area, self.boxes = self.root.get_by_label("completion"), self.root.locator(".pr1-box")
        self.root.wait_for(timeout=PATIENCE, state="attached")
        self.root.scroll_into_view_if_needed()

    @property
    def text(self) -> str:
        return self.area.input_value()

    def total(self, recipe: str = "kit") -> float:
        return float(self.root.get_by_label(f"reward {recipe}", exact=True).inner_text().replace("−", "-"))

    def asked(self) -> str:
        return self.root.get_attribute("data-asked")

    def settle(self) -> None:
        """Wait until Python has answered everything."""
        before = None
        while before != (before := (self.asked(), self.root.get_attribute("aria-busy"))) or before[1] == "true":
            self.page.wait_for_timeout(60)

    def write(self, text: str) -> None:
        self.area.fill(text)
        self.settle()

    def middle(self, k: int) -> tuple[float, float]:
        place = self.boxes.nth(k).locator(".pr1-line").bounding_box()
        return place["x"] + place["width"] / 2, place["y"] + place["height"] / 2

    def picture(self, name: str) -> None:
        if folder := os.environ.get("PR1KIT_PICTURES"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.root.screenshot(path=Path(folder) / f"{name}.png")


@pytest.fixture(scope="module")
def notebook(browser, lab):
    """The notebook in JupyterLab, all cells run, and what went wrong on the page since."""
    page = browser.new_page(viewport={"width": 1500, "height": 1150}, device_scale_factor=1)
    page.set_default_timeout(20_000)
    page.wrong = []
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("console", lambda message: page.wrong.append(message.text) if message.type == "error" else None)
    page.goto(lab, timeout=PATIENCE)
    page.locator(".jp-Notebook .jp-CodeCell").nth(2).wait_for(timeout=PATIENCE)
    shown, deadline = page.locator(".pr1kit-explorer"), time.monotonic() + PATIENCE / 1000
    while not shown.count():  # a kernel that is just connecting may forget what it was asked
        assert time.monotonic() < deadline, f"no explorer after {PATIENCE} ms"
        if not any(re.search(r"[*\d]", prompt) for prompt in page.locator(".jp-InputPrompt").all_inner_texts()):
            page.evaluate("() => void window.jupyterapp.commands.execute('notebook:run-all-cells')")
        page.wait_for_timeout(2000)
    yield page
    page.close()


@pytest.fixture
def explorer(notebook):
    """The first explorer, as it was when the cell had run; afterwards nothing may have gone wrong on the page."""
    notebook.wrong.clear()
    explorer = Explorer(notebook)
    for name, value in (("task", "counting"), ("recipe", "kit"), ("beside", ""), ("matching", "optimal")):
        explorer.root.get_by_label(name, exact=True).select_option(value)
    explorer.write(TEXT)
    yield explorer
    assert notebook.wrong == []


def paid(text: str, **switches) -> float:
    return round(score("counting", text, SCENE.target, **switches).total, 3)


def test_dragging_a_box_moves_the_numbers_before_it_is_let_go(explorer):
    page, seen, start = explorer.page, set(), explorer.text
    assert explorer.total() == paid(TEXT)
    x, y = explorer.middle(0)
    page.mouse.move(x, y)
    page.mouse.down()
    for move in range(1, 31):
        page.mouse.move(x + 3 * move, y + 2 * move)
        seen.add(explorer.total())
    explorer.settle()
    held = explorer.total()
    assert len(seen | {held}) > 5
    assert held != paid(TEXT)
    assert held == paid(explorer.text)
    page.mouse.up()
    explorer.settle()
    assert explorer.total() == held
    assert explorer.text != start
    page.keyboard.press("Control+z")
    explorer.settle()
    assert (explorer.text, explorer.total()) == (start, paid(start))


def test_a_corner_resizes_and_the_ground_takes_a_new_box(explorer):
    page = explorer.page
    x, y = explorer.middle(1)
    page.mouse.click(x, y)
    corner = explorer.root.locator("[data-handle='4'] .pr1-reach").bounding_box()
    x, y = corner["x"] + corner["width"] / 2, corner["y"] + corner["height"] / 2
    before = boxes_of(explorer.text)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 30, y + 40, steps=5)
    page.mouse.up()
    explorer.settle()
    after = boxes_of(explorer.text)
    assert after[1][:2] == before[1][:2]
    assert after[1][2] > before[1][2] and after[1][3] > before[1][3]  # noqa: PT018
    stage = explorer.root.locator(".pr1-stage").bounding_box()
    page.mouse.move(stage["x"] + 12, stage["y"] + stage["height"] - 90)
    page.mouse.down()
    page.mouse.move(stage["x"] + 82, stage["y"] + stage["height"] - 20, steps=6)
    page.mouse.up()
    explorer.settle()
    assert len(boxes_of(explorer.text)) == len(before) + 1
    assert explorer.total() == paid(explorer.text)
    assert explorer.root.locator(".pr1-box.pr1-alone").count() == 1  # nothing is there: no partner


def boxes_of(text: str) -> list[list[int]]:
    return get_task("counting").parse(text).boxes.tolist()


def test_the_keyboard_alone_does_it_all(explorer):
    page, press = explorer.page, explorer.page.keyboard.press
    explorer.boxes.nth(0).focus()
    press("Tab")
    assert explorer.boxes.nth(1).evaluate("box => box === document.activeElement")
    before = boxes_of(explorer.text)
    for key in ("ArrowLeft", "ArrowLeft", "ArrowDown", "Shift+ArrowRight"):
        press(key)
    explorer.settle()
    x1, y1, x2, y2 = before[1]
    assert boxes_of(explorer.text)[1] == [x1 - 2, y1 + 1, x2 - 1, y2 + 1]
    assert explorer.total() == paid(explorer.text)
    press("Control+z")
    explorer.settle()
    assert boxes_of(explorer.text) == before
    explorer.boxes.nth(1).focus()
    press("Delete")
    explorer.settle()
    assert boxes_of(explorer.text) == [before[0], *before[2:]]
    press("n")
    explorer.settle()
    assert len(boxes_of(explorer.text)) == len(before)
    assert explorer.boxes.nth(len(before) - 1).evaluate("box => box === document.activeElement")
    explorer.root.get_by_label("x1", exact=True).focus()
    press("Control+a")
    page.keyboard.type("5")
    press("Enter")
    explorer.settle()
    assert boxes_of(explorer.text)[-1][0] == 5
    explorer.root.get_by_label("label", exact=True).focus()
    press("Control+a")
    page.keyboard.type("moon")
    press("Enter")
    explorer.settle()
    assert "moon(5," in explorer.text
    assert explorer.total() == paid(explorer.text)


def test_written_text_is_read_matched_and_scored(explorer):
    explorer.area.fill("")
    explorer.area.press_sequentially("moon(4,13),(19,30)sun(9,9),(2,2)", delay=5)
    explorer.settle()
    assert explorer.text == "moon(4,13),(19,30)sun(9,9),(2,2)"  # typed while Python answered: nothing is lost
    assert explorer.total() == paid(explorer.text)
    assert explorer.boxes.count() == 1
    fault = explorer.root.locator(".pr1-faults li")
    assert "swapped corners at character 19: sun(9,9),(2,2)" in fault.inner_text()
    assert explorer.root.locator("mark.pr1-fault").inner_text() == "sun(9,9),(2,2)"
    fault.get_by_role("button").click()
    assert (
        explorer.area.evaluate("area => area.value.slice(area.selectionStart, area.selectionEnd)") == "sun(9,9),(2,2)"
    )
    explorer.write("<think>(4,13),(19,30)")
    assert "the thought is not closed" in explorer.root.locator(".pr1-faults").inner_text()
    assert explorer.total() == 0


def test_switches_change_what_is_paid(explorer):
    root = explorer.root
    root.get_by_label("recipe", exact=True).select_option("paper")
    root.get_by_label("beside", exact=True).select_option("released")
    explorer.settle()
    assert explorer.total("paper") == paid(TEXT, recipe="paper")
    assert explorer.total("released") == paid(TEXT, recipe="released")
    root.get_by_label("recipe", exact=True).select_option("kit")
    root.get_by_label("matching", exact=True).select_option("sequential")
    explorer.settle()
    assert explorer.total() == paid(TEXT, matching="sequential")
    explorer.picture("two_recipes")
    root.get_by_label("matching", exact=True).select_option("optimal")
    root.get_by_role("checkbox", name="location").uncheck()
    explorer.settle()
    assert explorer.total() == paid(TEXT, drop=["location"])
    root.get_by_role("checkbox", name="location").check()
    root.get_by_label("task", exact=True).select_option("detection")
    explorer.settle()
    assert explorer.total() == round(score("detection", TEXT, SCENE.target).total, 3)
    root.get_by_label("task", exact=True).select_option("counting")
    explorer.settle()
    assert explorer.total() == paid(TEXT)


def test_a_group_gives_advantages(explorer):
    root, join = explorer.root, explorer.root.get_by_role("button", name="Put this answer in the group")
    join.click()
    explorer.write("None")
    join.click()
    explorer.write(TEXT.replace("(28,31)", "(20,20)"))
    join.click()
    explorer.settle()
    shown = [bar.get_attribute("aria-label") for bar in root.locator(".pr1-group button").all()]
    rewards = [score("counting", text, SCENE.target).total for text in (TEXT, "None", explorer.text)]
    spread = (np.array(rewards) - np.mean(rewards)) / (np.std(rewards, ddof=1) + 1e-4)
    assert [float(re.search(r"advantage ([+−][\d.]+)", text)[1].replace("−", "-")) for text in shown] == pytest.approx(
        spread, abs=0.006
    )
    weights = [row.locator("td").all_text_contents() for row in root.locator(".pr1-weights tr").all()[1:]]
    expected = [[f"{w:.2f}" if w else "·" for w in row] for row in pair_weights(rewards).tolist()]
    assert weights == expected
    assert len(root.locator(".pr1-weights td.pr1-chosen").all()) == 2  # the pairs of the answer that is shown
    root.locator(".pr1-group button").nth(0).click()
    explorer.settle()
    assert explorer.text == TEXT
    root.get_by_role("button", name="Empty the group").click()
    explorer.settle()


def test_hostile_text_stays_text(explorer):
    page = explorer.page
    page.evaluate("window.hacked = 0")
    hostile = (
        "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script>\"'><svg onload='hacked=1'>(1,1),(9,9)"
    )
    explorer.write(hostile)
    assert explorer.text == hostile
    explorer.write("<think>" + "<b>(1,2),(3,4)" * 7_500)  # 100 kB
    explorer.write("(4,13),(19,30)" + "x" * 100_000)
    assert explorer.total() == paid(explorer.text)
    assert page.evaluate("window.hacked") == 0
    assert explorer.root.locator("script, img, b").count() == explorer.root.locator(".pr1-parts b").count()


def test_malformed_annotations_are_one_sentence_and_the_widget_lives(explorer):
    root = explorer.root
    root.get_by_text("The truth, as JSON").click()
    truth = root.get_by_label("truth as JSON")
    good = truth.input_value()
    for written, sentence in (
        ('{"boxes": [[1, 2', "no JSON"),
        ('{"boxes": [[0, 0, 900, 9]]}', "lies outside its image of 64x64 pixels"),
    ):
        truth.fill(written)
        root.get_by_role("button", name="Use this truth").click()
        explorer.settle()
        assert sentence in root.get_by_role("alert").inner_text()
        assert truth.input_value() == written  # what was written is there to be mended
    truth.fill(good)
    root.get_by_role("button", name="Use this truth").click()
    explorer.settle()
    assert not root.get_by_role("alert").is_visible()
    assert explorer.total() == paid(TEXT)
    root.get_by_text("The truth, as JSON").click()
    assert not truth.is_visible()


def test_what_it_looks_like(explorer, tmp_path):
    page = explorer.page
    explorer.picture("explorer")
    page.mouse.click(*explorer.middle(0))
    explorer.picture("selected")
    explorer.root.screenshot(path=tmp_path / "explorer.png")
    pixels = np.asarray(Image.open(tmp_path / "explorer.png").convert("RGB")).astype(int)
    for colour in ((0, 114, 178), (230, 159, 0)):  # truth, prediction
        assert (np.abs(pixels - colour).max(-1) <= 10).sum() > 300, colour
    assert explorer.root.locator(".pr1-lines line").count() == 2 * 4
    for box in explorer.boxes.all():
        assert re.fullmatch(r"Prediction \d .* at [\d., ]+, (matched with object \d, score [\d.]+|without a partner)",
                            box.get_attribute("aria-label"))  # fmt: skip


def test_a_run_is_stepped_through(notebook):
    notebook.wrong.clear()
    explorer = Explorer(notebook, 1)
    root = explorer.root
    assert "step 1 of 3" in root.inner_text()
    root.get_by_label("step on").click()
    root.get_by_label("step on").click()
    explorer.settle()
    assert "step 3 of 3" in root.inner_text()
    root.locator(".pr1-group button").nth(3).click()
    explorer.settle()
    assert explorer.text.count("<|box_start|>") == min(3, len(make_scenes("counting", 1)[0].target.boxes))
    root.get_by_label("question of this step").select_option("1")
    explorer.settle()
    (scene,) = make_scenes("counting", 1, start=1)
    assert scene.question in root.locator("h3").inner_text()
    explorer.picture("run")
    root.get_by_role("button", name="When else was this asked?").click()
    explorer.settle()
    root.locator(".pr1-run").get_by_role("button", name="1", exact=True).click()
    explorer.settle()
    assert "step 1 of 3" in root.inner_text()
    assert notebook.wrong == []


def test_twenty_boxes_follow_the_pointer(notebook, record_property):
    notebook.wrong.clear()
    explorer = Explorer(notebook, 2)
    assert explorer.boxes.count() == 20
    explorer.root.evaluate("""root => {
        let moved = 0;
        window.latencies = [];
        window.addEventListener("pointermove", () => { moved ||= performance.now(); }, true);
        new MutationObserver(() => {
            const start = moved;
            moved = 0;
            if (start) requestAnimationFrame(() => window.latencies.push(performance.now() - start));
        }).observe(root, { attributes: true, attributeFilter: ["data-asked"] });
    }""")
    x, y = explorer.middle(7)
    notebook.mouse.move(x, y)
    notebook.mouse.down()
    for move in range(1, 61):
        notebook.mouse.move(x + move, y - move)
        notebook.wait_for_timeout(8)
    explorer.settle()
    notebook.mouse.up()
    explorer.settle()
    latencies = notebook.evaluate("window.latencies")
    median = statistics.median(latencies)
    record_property("latency_ms", median)
    # Reported by -s, not asserted: on a quiet machine the median is to stay below 80 ms.
    print(f"{len(latencies)} answers, median {median:.0f} ms, longest {max(latencies):.0f} ms")
    assert len(latencies) >= 15
    scene, _ = crowd()
    assert explorer.total() == round(score("detection", explorer.text, scene.target).total, 3)
    explorer.picture("twenty_boxes")
    assert notebook.wrong == []


def test_a_page_of_its_own_on_this_computer_alone(browser, tmp_path):
    Image.new("RGB", (80, 60), "white").save(tmp_path / "a.png")
    (tmp_path / "a.json").write_text('{"boxes": [[10, 10, 40, 40]], "labels": ["cat"]}')
    command = [sys.executable, "-m", "pr1kit", "explore", "a.png", "a.json", "--no-browser", "--port", str(free_port())]
    with running(command, tmp_path, stdout=subprocess.PIPE, text=True) as server:
        address = re.search(r"http://127\.0\.0\.1:(\d+)/\?token=\S+", server.stdout.readline())
        assert address
        kernel = f"http://127.0.0.1:{address[1]}/api/kernels/{'0' * 8}-0000-0000-0000-{'0' * 12}"
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(kernel)
        for page, ours in ((address[0], "localhost"), (f"{kernel}?{urlsplit(address[0]).query}", "127.0.0.1")):
            for host, status in ((f"{ours}.example", 403), (ours, 200 if page == address[0] else 404)):
                assert status_of(page.replace("/?", "/login?"), host) == status  # the login page starts no kernel
        with socket.socket() as outside, pytest.raises(OSError):  # noqa: PT011
            outside.connect((own_address(), int(address[1])))
        page = browser.new_page(viewport={"width": 1300, "height": 900}, has_touch=True)
        page.set_default_timeout(60_000)
        wrong, reached = [], set()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("requestfinished", lambda request: reached.add(urlsplit(request.url).netloc))
        page.goto(address[0], timeout=PATIENCE)
        explorer = Explorer(page)
        explorer.settle()
        (first,) = kernels(server.pid)
        page.reload(timeout=PATIENCE)
        explorer = Explorer(page)
        explorer.settle()
        wait_until(lambda: not first.is_running())
        (second,) = kernels(server.pid)
        assert explorer.total() == 1
        x, y = explorer.middle(0)
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 60, y + 30, steps=10)
        explorer.settle()
        page.mouse.up()
        truth = {"boxes": [[10, 10, 40, 40]], "labels": ["cat"], "image_size": (80, 60)}
        assert explorer.total() == round(score("detection", explorer.text, truth).total, 3) < 1
        explorer.picture("page")
        before = explorer.text
        drag_with_a_finger(page, explorer.middle(0))
        explorer.settle()
        assert explorer.text != before
        assert explorer.total() == round(score("detection", explorer.text, truth).total, 3)
        page.close()
        assert wrong == []
        assert reached - {""} == {f"127.0.0.1:{address[1]}"}  # "": data and blobs
        server.send_signal(signal.SIGINT)
        assert server.wait(PATIENCE / 1000) == 0
        wait_until(lambda: not second.is_running())


def test_a_kernel_that_no_page_holds_is_ended_and_one_whose_server_dies(tmp_path):
    code = "from pr1kit.explorer import page\npage.ABANDONED_AFTER, page.LOOK_EVERY = 5, 1\n"
    code += f"page.serve_explorer(port={free_port()}, browser=False)"
    with running([sys.executable, "-c", code], tmp_path, stdout=subprocess.PIPE, text=True) as server:
        address = urlsplit(re.search(r"http://\S+", server.stdout.readline())[0])
        with urllib.request.urlopen(address.geturl(), timeout=PATIENCE / 1000) as reply:  # starts a kernel
            # The rest of the page may never come: on a busy machine the kernel can be ended before its cell has run.
            found = (re.search(r'"kernelId": *"([\w-]+)"', line.decode()) for line in reply)
            name = next(match[1] for match in found if match)
        wait_until(lambda: status_of(address._replace(path=f"/api/kernels/{name}").geturl(), address.netloc) == 404)
        wait_until(lambda: not kernels(server.pid))
    code = code.replace("= 5, 1", "= 600, 60")
    with running([sys.executable, "-c", code], tmp_path, stdout=subprocess.PIPE, text=True) as server:
        address = re.search(r"http://\S+", server.stdout.readline())[0]
        urllib.request.urlopen(address, timeout=PATIENCE / 1000).close()
        (kernel,) = kernels(server.pid)
        server.kill()
        wait_until(lambda: not kernel.is_running())


def kernels(server: int) -> list[psutil.Process]:
    """The processes that a server has started, which are its kernels."""
    return [each for each in psutil.Process(server).children() if each.status() != psutil.STATUS_ZOMBIE]


def wait_until(holds) -> None:
    """Wait for what must come about; the limit only keeps a test that fails from never ending."""
    deadline = time.monotonic() + PATIENCE / 1000
    while not holds():
        assert time.monotonic() < deadline, "it has not come about"
        time.sleep(0.1)


def status_of(address: str, host: str) -> int:
    """The status with which a server answers a request that names `host`."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers={"Host": host})) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


def drag_with_a_finger(page, start: tuple[float, float]) -> None:
    touch = page.context.new_cdp_session(page)
    for kind, far in (("touchStart", 0), *(("touchMove", 6 * move) for move in range(1, 11))):
        point = {"x": start[0] - far, "y": start[1] - far}
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [point]})
        page.wait_for_timeout(40)
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def own_address() -> str:
    """An address of this machine that is not loopback; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        try:
            one.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        return one.getsockname()[0]


def test_a_run_on_clips_is_stepped_through_frame_by_frame(browser, tmp_path):
    write_clip_run(tmp_path / "run")
    command = [sys.executable, "-m", "pr1kit", "explore", "run", "--no-browser", "--port", str(free_port())]
    with running(command, tmp_path, stdout=subprocess.PIPE, text=True) as server:
        address = re.search(r"http://\S+", server.stdout.readline())[0]
        page, wrong = browser.new_page(viewport={"width": 1240, "height": 1050}), []
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(address, timeout=PATIENCE)
        explorer = Explorer(page)
        explorer.settle()
        root, (film,) = explorer.root, make_clips("tracking", 1, 4)
        pay = partial(score, "tracking", target=film.target)
        before, frames = explorer.text, root.get_by_role("slider", name="frame", exact=True)
        assert explorer.total() == round(pay(before).total, 3)
        root.get_by_label("frame on").click()
        x, y = explorer.middle(0)
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 40, y + 24, steps=6)
        page.mouse.up()
        explorer.settle()
        changed = [(a, b) for a, b in zip(before.split(";"), explorer.text.split(";"), strict=True) if a != b]
        assert [new.partition(":")[0] for _, new in changed] == ["Frame 2"]
        assert explorer.total() == round(pay(explorer.text).total, 3) < round(pay(before).total, 3)
        box = get_task("tracking").parse(changed[0][1]).boxes[0]
        overlap = box_iou(box.tolist(), film.target.tracks[0].boxes[1].tolist())
        assert root.get_by_role("button", name="frame 2: true").get_attribute("aria-label").endswith(f"{overlap:.2f}")
        explorer.picture("frames")
        explorer.boxes.nth(0).focus()
        page.keyboard.press(".")
        assert frames.get_attribute("aria-valuetext") == "frame 3 of 8, 1 s"
        page.keyboard.press("Delete")
        explorer.settle()
        assert "Frame 3:" not in explorer.text
        assert explorer.boxes.count() == 0
        page.keyboard.press("n")
        explorer.settle()
        assert get_task("tracking").parse(explorer.text).frames.tolist() == [0, 1, 2, 3]
        frames.fill("7")
        assert explorer.boxes.count() == 0
        root.locator(".pr1-group button").nth(1).click()
        explorer.settle()
        assert explorer.text.count("Frame") == 1
        page.close()
        assert wrong == []


def write_clip_run(folder: Path) -> None:
    """One step on one clip, answers with one to four frames of its track, the longest first."""
    folder.mkdir()
    (film,) = make_clips("tracking", 1, 4)
    boxes = film.target.tracks[0].boxes.tolist()
    texts = [
        ";".join(f"Frame {at + 1}:[{','.join(f'{value:g}' for value in boxes[at])}]" for at in range(count))
        for count in (4, 1, 2, 3)
    ]
    row = {"step": 1, "id": film.id, "prompt": get_task("tracking").prompt(film.question), "completions": texts}
    row |= {"rewards": [score("tracking", text, film.target).total for text in texts], "advantages": [0.0] * 4}
    (folder / "rollouts.jsonl").write_text(json.dumps(row) + "\n")

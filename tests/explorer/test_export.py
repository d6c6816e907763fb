"""A run as a page of its own: what it holds, what is refused, and Chromium over file:// against Python's numbers."""

import json
import re
import shutil
from dataclasses import replace

import pytest

from pr1kit.__main__ import main
from pr1kit.data.scenes import make_scenes
from pr1kit.explorer.export import SWITCH, export_explorer
from pr1kit.rewards.score import score
from pr1kit.rewards.tasks import get_task
from pr1kit.rollouts.probes import FILE, probe_row

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
STEPS = (0, 2, 4, 6)
HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror='window.hacked=1'>circle(1,1),(9,9)"


def probes(task: str) -> list[tuple]:
    """Three scenes and what is answered at each step: more of the objects, tighter, once nothing and once markup."""
    rows = []
    for step in STEPS:
        for i, scene in enumerate(make_scenes(task, 3, 5, split="test")):
            boxes = (scene.target.boxes + max(4 - step, 0))[: 1 + step]
            text = get_task(task).write_answer({"boxes": boxes}, label=scene.question)
            text = {(2, 0): "None", (4, 1): HOSTILE, (6, 2): "\N{CAT FACE} " + text}.get((step, i), text)
            rows.append((step, scene, text))
    return rows


def write_run(folder, task: str, recipe: str, finished: bool = True):
    folder.mkdir(parents=True)
    lines = [json.dumps(probe_row(step, scene, "pixel", text)) for step, scene, text in probes(task)]
    (folder / FILE).write_text("\n".join(lines) + "\n" * finished)
    (folder / "settings.json").write_text(json.dumps({"recipe": recipe, "steps": 6}))
    log = [{"step": step, "reward": step / 8, "loss": 0.0} for step in range(1, 7)]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    home = tmp_path_factory.mktemp("runs")
    write_run(home / "counting" / "rl", "counting", "released")
    write_run(home / "grounding" / "rl", "grounding", "kit")
    return home


def content(page) -> list[dict]:
    return json.loads(re.search(r'id="runs">(.*?)</script>', page.read_text(encoding="utf-8"), re.S)[1])


def test_the_page_holds_what_score_pays_at_every_step(runs, tmp_path, capsys):
    assert main(["explore", str(runs), "--export", str(tmp_path / "site")]) == 0
    page = tmp_path / "site" / "index.html"
    assert capsys.readouterr().out == f"{page}\n"
    counting, grounding = content(page)
    assert (counting["name"], counting["recipe"], grounding["name"]) == ("counting", "released", "grounding")
    assert counting["curve"] == [[step, step / 8] for step in range(1, 7)]
    for run in (counting, grounding):
        assert (run["steps"], run["recipes"]) == (list(STEPS), list(SWITCH))
        for number, (step, scene, text) in enumerate(probes(run["task"])):
            seen = run["readouts"][STEPS.index(step)][number % 3]
            assert seen["text"] == text
            for result in seen["results"]:
                paid = score(run["task"], text, scene.target, recipe=result["recipe"])
                assert result["total"] == paid.total
                assert result["matches"] == [list(pair) for pair in paid.matches]
                assert {part["name"]: part["value"] for part in result["parts"]} == paid.parts


def test_nothing_in_the_page_names_another_place(runs, tmp_path):
    page = export_explorer(runs, tmp_path).read_text(encoding="utf-8")
    places = set(re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"'\s)>]+)""", page.partition('id="runs"')[0]))
    assert places == {"data:,"}
    assert "</script><script>window" not in page


def test_a_run_that_is_still_going_is_shown_as_far_as_it_is(tmp_path):
    run = write_run(tmp_path / "run", "counting", "kit", finished=False)
    rows = (run / FILE).read_text()
    (run / FILE).write_text(rows[:-40])  # cut off within the last line
    (run / "log.jsonl").unlink()
    (shown,) = content(export_explorer(run, tmp_path / "site"))
    assert (shown["steps"], shown["last"], shown["curve"]) == (list(STEPS[:-1]), 6, [])
    assert len(shown["scenes"]) == 3
    assert shown["name"] == "run"


def test_pictures_of_ones_own_are_found_or_asked_for(tmp_path):
    run = write_run(tmp_path / "run", "counting", "kit")
    scenes = make_scenes("counting", 3, 5, split="test")
    rows = [json.loads(line) for line in (run / FILE).read_text().splitlines()]
    own = [replace(scene, id=f"own-{i}") for i, scene in enumerate(scenes)]
    own[0].image.save(tmp_path / "own.png")
    images = [str(tmp_path / "own.png"), None, None]
    rows = [{**row, "id": f"own-{i % 3}", "image": images[i % 3]} for i, row in enumerate(rows)]
    (run / FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=r"'own-1' is no synthetic scene: pass samples="):
        export_explorer(run, tmp_path / "site")
    (shown,) = content(export_explorer(run, tmp_path / "site", samples=own[1:]))
    assert [scene["id"] for scene in shown["scenes"]] == ["own-0", "own-1", "own-2"]
    rows[0]["id"] = "scenes/counting/test/5/1"
    (run / FILE).write_text(json.dumps(rows[0]) + "\n")
    (tmp_path / "own.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"own\.png"):
        export_explorer(run, tmp_path / "site")
    (run / FILE).write_text(json.dumps({**rows[0], "image": None}) + "\n")
    with pytest.raises(ValueError, match="was drawn with other settings: pass samples="):
        export_explorer(run, tmp_path / "site")


def test_a_run_without_probes_is_one_sentence(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    for folder in ("run", "nowhere"):
        assert main(["explore", str(tmp_path / folder), "--export", str(tmp_path / "site")]) == 2
        said = capsys.readouterr().err
        assert f"{folder}' has no probes.jsonl, its policy was asked nothing on the way: train with" in said
    assert main(["explore", "--export", str(tmp_path / "site")]) == 2
    assert "--export needs a run's folder" in capsys.readouterr().err
    (tmp_path / "run" / FILE).write_text('{"step": 0, "id": "a"}\n')
    with pytest.raises(ValueError, match=r"Line 1 of .* has no 'task'"):
        export_explorer(tmp_path / "run", tmp_path / "site")
    assert not (tmp_path / "site").exists()


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    """The page in Chromium, from a file, and all that it asked for or complained about."""
    if CHROMIUM is None:
        pytest.skip("no Chromium: the page is not tested in a browser (on Debian, as root: apt-get install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -e '.[dev]'")
    address = export_explorer(runs, tmp_path_factory.mktemp("site")).as_uri()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1240, "height": 900})
        page.wrong, page.asked = [], []
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.on("console", lambda message: page.wrong.append(message.text))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(address)
        yield page
        assert page.wrong == []
        assert [url for url in page.asked if not url.startswith("data:")] == [address]
        browser.close()


def settle(page) -> None:
    page.locator(".pr1-replay[aria-busy=false]").wait_for()


def choose(page, group: str, name: str) -> None:
    page.get_by_role("group", name=group, exact=True).get_by_role("button", name=name, exact=True).click()
    settle(page)


READ = """() => {
    const values = (selector) => [...document.querySelectorAll(selector)].map((node) => Number(node.dataset.value));
    const place = (box) => ["x", "y", "width", "height"].map((name) => Number(box.getAttribute(name)));
    const pressed = document.querySelector("[aria-label=reward] [aria-pressed=true]").textContent;
    const heads = [...document.querySelectorAll(".pr1-parts thead button")].map((node) => node.textContent);
    const column = heads.indexOf(pressed) + 2;
    return [...document.querySelectorAll(".pr1-strip button")].map((button) => {
        button.click();
        const stage = document.querySelector(".pr1-left > .pr1-stage");
        return {
            total: values(`[aria-label="reward ${pressed}"]`),
            strip: Number(button.querySelector("output").dataset.value),
            said: document.querySelector(`[aria-label="reward ${pressed}"]`).textContent,
            parts: values(`.pr1-parts tbody td:nth-child(${column})[data-value]`), dots: values(".pr1-chart circle"),
            text: document.querySelector("[aria-label=completion]").value,
            boxes: [...stage.querySelectorAll(".pr1-box .pr1-line")].map(place),
            lines: stage.querySelectorAll(".pr1-lines > g").length,
        };
    });
}"""


def slider(page):
    return page.get_by_role("slider", name="training step")


@pytest.mark.parametrize("task", ["counting", "grounding"])
def test_every_step_under_every_rule_shows_pythons_numbers(page, task):
    page.emulate_media(reduced_motion="reduce")
    choose(page, "run", task)
    for at, step in enumerate(STEPS):
        slider(page).fill(str(at))
        assert slider(page).get_attribute("aria-valuetext") == f"step {step} of 6"
        for recipe in SWITCH:
            choose(page, "reward", recipe)
            answers = [(scene, text) for when, scene, text in probes(task) if when == step]
            paid = [score(task, text, scene.target, recipe=recipe) for scene, text in answers]
            for (_, text), result, shown in zip(answers, paid, page.evaluate(READ), strict=True):
                assert (shown["total"], shown["strip"]) == ([result.total], result.total)
                assert float(shown["said"].replace("−", "-")) == pytest.approx(result.total, abs=0.00051)
                assert shown["parts"] == [result.parts[name] for name in get_task(task).PARTS[recipe]]
                assert shown["dots"][at] == pytest.approx(sum(each.total for each in paid) / 3, abs=1e-15)
                assert (shown["text"], shown["lines"]) == (text, len(result.matches))
                said = get_task(task).parse(text).boxes.tolist()
                assert sorted(shown["boxes"]) == sorted([x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in said)
    page.emulate_media(reduced_motion="no-preference")
    assert page.evaluate("window.hacked") is None


def test_the_keyboard_moves_through_the_run(page):
    choose(page, "run", "counting")
    slider(page).focus()
    seen = []
    for key in ("Home", "ArrowRight", "ArrowRight", "ArrowLeft", "End", "ArrowRight"):
        page.keyboard.press(key)
        settle(page)
        seen.append(int(page.locator(".pr1-replay").get_attribute("data-step")))
    assert seen == [0, 2, 4, 2, 6, 6]
    page.locator(".pr1-strip button").nth(1).focus()
    page.keyboard.press("Enter")
    assert page.locator(".pr1-strip button").nth(1).get_attribute("aria-pressed") == "true"
    page.locator(".pr1-chart").click(position={"x": 50, "y": 60})
    settle(page)
    assert page.locator(".pr1-replay").get_attribute("data-step") == "0"


def test_it_plays_to_the_end_and_stops(page):
    slider(page).fill("2")
    page.get_by_role("button", name="Play").click()
    page.locator(".pr1-replay[data-step='6']").wait_for()
    page.get_by_role("button", name="Play").wait_for()


@pytest.mark.parametrize("width", [360, 700, 1240])
def test_no_window_is_too_narrow(page, width):
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.set_viewport_size({"width": 1240, "height": 900})

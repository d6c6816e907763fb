// A page without a server: the steps of a run. Python computed every number that is shown; this draws them.
const GLIDE = 350, REST = 900; // ms that boxes take to their new places, and between two steps that are played
const EDGE = { left: 58, right: 18, top: 14, bottom: 40 }; // of the chart, in pixels
const KNOB = 16; // width of the slider's

function createReplay(runs) {
  const shown = { run: 0, step: 0, from: 0, scene: 0, frame: 0, recipe: ownRecipe(runs[0]), moved: 1 }; // moved: share of the way
  const run = () => runs[shown.run], last = () => run().steps.length - 1;
  const column = () => Math.max(run().recipes.indexOf(shown.recipe), 0), recipe = () => run().recipes[column()];
  const still = window.matchMedia("(prefers-reduced-motion: reduce)");
  let frame = 0, clock = 0, started = 0;

  // The boxes of an answer, frame by frame in the order of the objects they are matched with, so that a box stays the
  // same box.
  function boxes(step, scene) {
    const { items, results } = run().readouts[step][scene];
    const partner = new Map(results[column()].matches.map(([p, t]) => [p, t]));
    const read = items.filter((item) => !item.fault).map(({ values, label, prediction, at }) => ({ values, label, index: prediction, at }));
    let alone = 1e6;
    for (const item of read) item.order = partner.get(item.index) ?? (alone += 1);
    for (const item of read) item.key = `${item.at} ${item.order}`;
    return read.sort((a, b) => a.at - b.at || a.order - b.order).map((item, k) => ({ ...item, k }));
  }

  // What the parts of the explorer ask for; here nothing can be changed by hand. `fixed` is a scene, or none for the chosen.
  function view(fixed) {
    const scene = () => fixed ?? shown.scene;
    const ui = {
      fixed: true, selected: -1,
      scene: () => run().scenes[scene()],
      readout: () => run().readouts[shown.step][scene()],
      shown: () => ui.readout().results[column()],
      get column() { return column(); },
      items() {
        const now = boxes(shown.step, scene());
        if (shown.moved === 1) return now;
        const before = new Map(boxes(shown.from, scene()).map((item) => [item.key, item.values]));
        return now.map((item) => {
          const old = before.get(item.key);
          if (old?.length !== item.values.length) return item;
          return { ...item, values: item.values.map((v, i) => old[i] + (v - old[i]) * shown.moved) };
        });
      },
      get at() { return Math.min(shown.frame, ui.scene().pictures.length - 1); },
      turn(at) {
        shown.frame = clamp(at, 0, ui.scene().pictures.length - 1);
        ui.selected = -1;
        draw();
      },
      here: () => ui.items().filter((item) => item.at === ui.at),
      byIndex: (index) => ui.here().find((item) => item.index === index),
      idle: () => true, typing: () => false, begin: () => false, local: () => undefined,
      select: (k) => { if (ui.selected !== k) { ui.selected = k; draw(); } },
      show: (i) => choose(run().recipes[i]),
    };
    return ui;
  }

  function go(step) {
    step = clamp(step, 0, last());
    if (step === shown.step) return;
    Object.assign(shown, { from: shown.step, step, moved: still.matches ? 1 : 0 });
    started = performance.now();
    cancelAnimationFrame(frame);
    glide();
  }

  function glide() {
    if (shown.moved < 1) {
      const share = Math.min((performance.now() - started) / GLIDE, 1);
      shown.moved = share < 1 ? share * share * (3 - 2 * share) : 1;
      if (shown.moved < 1) frame = requestAnimationFrame(glide);
    }
    draw();
  }

  function choose(name) {
    shown.recipe = name;
    draw();
  }

  function play() {
    clearInterval(clock);
    if (clock) return void ((clock = 0), draw());
    const on = () => (shown.step < last() ? go(shown.step + 1) : play());
    clock = setInterval(on, REST);
    shown.step === last() ? go(0) : on();
    draw();
  }

  const chosen = view(), stage = createStage(chosen), frames = createFrames(chosen), parts = [createParts, createTranscript, createText].map((create) => create(chosen));
  const curve = createCurve({ run, recipe, shown, go, play, playing: () => Boolean(clock) });
  const title = html("h3"), lead = html("p", { class: "pr1-note" }), live = html("p", { class: "pr1-hidden", "aria-live": "polite" });
  const tabs = createSwitch("run", runs.map((each) => each.name), (i) => {
    Object.assign(shown, { run: i, scene: 0, step: Math.min(shown.step, runs[i].steps.length - 1), recipe: ownRecipe(runs[i]), moved: 1 });
    draw();
  });
  const rules = createSwitch("reward", [...new Set(runs.flatMap((each) => each.recipes))], (_, name) => choose(name));
  const strip = html("div", { class: "pr1-strip", role: "group", "aria-label": "held-out pictures" });
  const caption = html("p", { class: "pr1-note" });
  const key = html("p", { class: "pr1-key" }, html("span", { class: "pr1-of-truth" }, "truth"), html("span", { class: "pr1-of-prediction" }, "the policy's answer"));
  const note = html("p", { class: "pr1-note" }, "Every reward was computed by pr1kit, in Python; this page only draws.");
  const thumbs = [];
  const root = html("main", { class: "pr1kit-explorer pr1-replay" },
    html("header", {}, html("div", {}, title, lead), tabs.root, rules.root),
    html("div", { class: "pr1-columns" }, curve.root,
      html("div", { class: "pr1-left" }, caption, stage.root, frames.root, key, strip),
      html("div", { class: "pr1-right" }, ...parts.map((part) => part.root), note)),
    live);

  function thumb(k) {
    const ui = view(k), small = createStage(ui), words = html("span"), reward = html("output");
    const button = html("button", { type: "button", onclick: () => { shown.scene = k; chosen.selected = -1; draw(); } },
      html("span", { inert: true }, small.root), words, reward);
    thumbs.push({ button, draw() {
      const { total } = ui.shown();
      put(words, ui.scene().question || `picture ${k + 1}`);
      put(reward, number(total, 2));
      fill(reward, { "data-value": total }, []);
      fill(button, { "aria-pressed": String(k === shown.scene), "aria-label": `${words.textContent}, reward ${number(total, 2)}` }, []);
      small.draw();
    } });
    return button;
  }

  function draw() {
    const { task, steps, scenes } = run(), { total } = chosen.shown(), step = steps[shown.step];
    put(title, `${task === "ocr" ? "OCR" : task[0].toUpperCase() + task.slice(1)} over ${run().last} training steps`);
    put(lead, `The same ${scenes.length} held-out ${kind(run())}, answered greedily at ${steps.length} steps of the training.`);
    put(caption, [chosen.scene().question, `step ${step} of ${run().last}`].filter(Boolean).join(" · "));
    key.hidden = ["ocr", "what"].includes(chosen.readout().task);
    tabs.draw(shown.run);
    rules.draw(rules.names.indexOf(recipe()), run().recipes);
    thumbs.length = Math.min(thumbs.length, scenes.length);
    pool(strip, scenes.length, thumb);
    for (const part of [stage, frames, curve, ...parts, ...thumbs]) part.draw();
    fill(root, { "aria-busy": String(shown.moved < 1), "data-step": step, "data-recipe": recipe() }, []);
    put(live, shown.moved < 1 ? "" : `step ${step}, ${recipe()} reward ${number(total, 2)}`);
  }

  document.body.append(root);
  draw();
}

// The reward that trained the run, where it is one of those shown.
const ownRecipe = ({ recipe, recipes }) => (recipes.includes(recipe) ? recipe : recipes[recipes.length - 1]);

const kind = ({ scenes }) => (scenes.some((scene) => scene.pictures.length > 1) ? "videos" : "pictures");

// One of a few names; nothing where there is no choice.
function createSwitch(label, names, onchoose) {
  const buttons = names.map((name, i) => html("button", { type: "button", onclick: () => onchoose(i, name) }, name));
  const root = html("div", { class: "pr1-switch", role: "group", "aria-label": label, hidden: names.length < 2 }, ...buttons);
  const draw = (at, known = names) => buttons.forEach((button, i) => {
    button.disabled = !known.includes(names[i]);
    fill(button, { "aria-pressed": String(i === at) }, []);
  });
  return { root, names, draw };
}

// Reward against training step, and the slider below it, step under step.
function createCurve({ run, recipe, shown, go, play, playing }) {
  const grid = svg("g", { class: "pr1-grid" }), trained = svg("polyline", { class: "pr1-trained" }), held = svg("polyline", { class: "pr1-held" });
  const dots = svg("g", { class: "pr1-held" }), mark = svg("line", { class: "pr1-mark" });
  const chart = svg("svg", { class: "pr1-chart", role: "img" }, grid, trained, held, dots, mark);
  const slider = html("input", { type: "range", min: 0, step: 1, "aria-label": "training step", oninput: () => go(Number(slider.value)) });
  const button = html("button", { type: "button", onclick: play });
  const said = html("b"), one = html("span", { class: "pr1-of-held" }), other = html("span", { class: "pr1-of-trained" });
  const root = html("section", { class: "pr1-progress", "aria-label": "rewards over training" }, chart, slider,
    html("div", { class: "pr1-tools" }, button, said, html("p", { class: "pr1-key" }, one, other)));

  function draw() {
    const { steps, means, curve } = run(), values = means[recipe()], width = Math.max(chart.clientWidth, 200), height = 190;
    const end = Math.max(steps[steps.length - 1], ...curve.map(([step]) => step), 1);
    const all = [...values, ...curve.map(([, reward]) => reward)];
    const across = ticks(0, end, width > 420 ? 6 : 4, true), up = ticks(Math.min(0, ...all), Math.max(1, ...all), 4);
    const low = up[0], high = up[up.length - 1];
    const x = (step) => EDGE.left + (step / end) * (width - EDGE.left - EDGE.right);
    const y = (reward) => height - EDGE.bottom - ((reward - low) / (high - low)) * (height - EDGE.top - EDGE.bottom);
    fill(chart, { viewBox: `0 0 ${width} ${height}`, height, "aria-label": `mean reward ${steps.map((s, i) => `${number(values[i], 2)} at step ${s}`).join(", ")}` }, []);
    if (end - across[across.length - 1] > 0.4 * (across[1] - across[0])) across.push(end);
    const text = (words, at) => svg("text", at, words);
    grid.replaceChildren(
      ...up.map((v) => svg("line", { x1: EDGE.left, x2: width - EDGE.right, y1: y(v), y2: y(v) })),
      ...up.map((v) => text(String(+v.toFixed(6)).replace("-", "−"), { x: EDGE.left - 8, y: y(v) + 4, "text-anchor": "end" })),
      ...across.map((v) => text(String(v), { x: x(v), y: height - EDGE.bottom + 17, "text-anchor": "middle" })),
      text("training step", { x: (x(0) + x(end)) / 2, y: height - 5, "text-anchor": "middle", class: "pr1-axis" }),
      text("mean reward", { transform: `translate(11 ${(y(low) + y(high)) / 2}) rotate(-90)`, "text-anchor": "middle", class: "pr1-axis" }));
    fill(trained, { points: curve.map(([step, reward]) => `${x(step)},${y(reward)}`).join(" ") }, []);
    fill(held, { points: steps.map((step, i) => `${x(step)},${y(values[i])}`).join(" ") }, []);
    pool(dots, steps.length, () => svg("circle")).forEach((dot, i) =>
      fill(dot, { cx: x(steps[i]), cy: y(values[i]), r: i === shown.step ? 5.5 : 3.5, "data-value": values[i] }, []));
    const here = x(steps[shown.step]);
    fill(mark, { x1: here, x2: here, y1: EDGE.top - 6, y2: height - EDGE.bottom }, []);
    const from = x(steps[0]), to = x(steps[steps.length - 1]);
    Object.assign(slider.style, { marginLeft: `${from - KNOB / 2}px`, width: `${to - from + KNOB}px` });
    fill(slider, { max: steps.length - 1, "aria-valuetext": `step ${steps[shown.step]} of ${run().last}` }, []);
    slider.value = shown.step;
    put(button, playing() ? "❚❚ Pause" : "▶ Play");
    put(said, `step ${steps[shown.step]}`);
    put(one, `these ${kind(run())}, greedy, paid by ${recipe()}: ${number(values[shown.step], 2)}`);
    put(other, `training, sampled${run().recipe ? `, paid by ${run().recipe}` : ""}`);
    other.hidden = !curve.length;
    for (const node of [trained, other]) node.classList.toggle("pr1-faint", Boolean(run().recipe) && run().recipe !== recipe());
  }

  chart.addEventListener("click", (event) => {
    const places = [...dots.children].map((dot) => Math.abs(dot.getBoundingClientRect().x + dot.getBoundingClientRect().width / 2 - event.clientX));
    go(places.indexOf(Math.min(...places)));
  });
  new ResizeObserver(() => draw()).observe(chart);
  return { root, draw };
}

// Round numbers, about as many as asked for: those from low to high, or, but for `inside`, the next beyond them too.
function ticks(low, high, count, inside = false) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const steps = [1, 2, 2.5, 5, 10].map((k) => k * power).filter((each) => each >= rough * 0.999 && (!inside || Number.isInteger(each)));
  const step = steps[0] ?? 1, first = Math.floor(low / step + 1e-9), last = inside ? Math.floor(high / step + 1e-9) : Math.ceil(high / step - 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
}

createReplay(JSON.parse(document.getElementById("runs").textContent));

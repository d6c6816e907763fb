// The page's side of the reward explorer: it draws `readout` and asks for changes. No reward is computed here.
// One request is under way at a time; of those that wait, the newest of a gesture replaces the older.
const PATIENCE = 4000; // ms without an answer, after which the page says so

function connect(model, redraw) {
  let number = 0, sent = 0, waiting = null, gesture = null, gestures = 0, lastKey = 0, typed = null, timer = 0, began = 0;
  const name = Math.random().toString(36).slice(2); // gestures of two views never meet
  const readout = () => model.get("readout") || {};
  const valid = () => (readout().items || []).map((item, place) => ({ ...item, place })).filter((item) => !item.fault);

  const ui = {
    selected: -1, column: 0, silent: false, refocus: false, asked: 0,
    readout, scene: () => model.get("scene") || {}, run: () => model.get("run") || {},
    idle: () => !sent,
    shown: () => (readout().results || [])[Math.min(ui.column, (readout().results || []).length - 1)],
    // The items as they are drawn: those read from the text, moved ones where the hand has them.
    items() {
      const read = valid().map(({ values, label, prediction }) => ({ values, label, index: prediction }));
      if (gesture && gesture.items.length === read.length)
        gesture.items.forEach((item, k) => (read[k] = { ...read[k], values: item.values, label: item.label }));
      return read;
    },
    byIndex: (index) => ui.items().find((item) => item.index === index),
    local: (k) => gesture.items[k],
    typing: () => typed !== null,

    send(message) {
      waiting = message;
      if (!began) began = performance.now();
      flush();
    },
    set: (changes) => ui.send({ action: "set", ...changes }),
    type(text) {
      if (typed === null || performance.now() - lastKey > 1200) gestures += 1;
      lastKey = performance.now();
      typed = text;
      ui.send({ action: "text", text, gesture: `${name}-text-${gestures}` });
      redraw();
    },

    // A gesture: one entry for undo, its moves counted from the answer as it was when it began.
    begin(kind, k) {
      if (sent || (k >= 0 && !valid()[k])) return false;
      gesture = { id: `${name}-${(gestures += 1)}`, kind, k, over: false };
      gesture.items = valid().map(({ values, label, place }) => ({ values: values.slice(), label, place }));
      return true;
    },
    change(k, values, label) {
      gesture.items[k].values = values;
      if (label !== undefined) gesture.items[k].label = label;
      ui.commit();
      redraw();
    },
    commit() {
      const items = gesture.items.map(({ values, label, place }) => ({ values, label, place }));
      ui.send({ action: "items", items, gesture: gesture.id });
    },
    add(values) {
      const { truth, question } = ui.scene(), last = gesture.items[gesture.items.length - 1];
      const label = last?.label || truth.labels[0] || (readout().task === "detection" ? "object" : question) || "";
      gesture.items.push({ values, label, place: null, fresh: true });
      ui.selected = gesture.items.length - 1;
      return ui.selected;
    },
    end() {
      if (!gesture) return;
      gesture.over = true;
      if (!sent) gesture = null;
      redraw();
    },
    // One change that is a gesture of its own; keys held down are one gesture.
    nudge(k, change) {
      const held = gesture && gesture.kind === "key" && gesture.k === k && performance.now() - lastKey < 700;
      if (!held && !ui.begin("key", k)) return ui.later(() => ui.nudge(k, change));
      lastKey = performance.now();
      gesture.over = true;
      ui.change(k, change(gesture.items[k].values));
    },
    once(edit) {
      if (!ui.begin("once", -1)) return ui.later(() => ui.once(edit));
      gesture.over = true;
      edit(gesture.items);
      ui.commit();
      redraw();
    },
    remove: (k) => ui.once((items) => { items.splice(k, 1); ui.selected = Math.min(k, items.length - 1); ui.refocus = true; }),
    draw() {
      const [w, h] = ui.scene().size, unit = readout().unit;
      const at = (share, side, axis) => Math.round((share * side) / unit[axis]) * unit[axis];
      ui.once(() => { ui.add([at(0.375, w, 0), at(0.375, h, 1), at(0.625, w, 0), at(0.625, h, 1)]); ui.refocus = true; });
    },
    edit: (k, values, label) => ui.once((items) => Object.assign(items[k] ?? {}, { values, label })),
    travel: (action) => ui.later(() => { gesture = null; typed = null; ui.send({ action }); }),
    later: (then) => (sent ? queue.push(then) : then()),
    select(k) { if (ui.selected !== k) { ui.selected = k; redraw(); } },
    show(column) { ui.column = column; redraw(); },
  };
  const queue = [];

  function flush() {
    if (sent || !waiting) return;
    sent = number += 1;
    model.send({ ...waiting, number: sent });
    waiting = null;
    ui.asked = began;
    began = 0;
    clearTimeout(timer);
    timer = setTimeout(() => { ui.silent = true; sent = 0; redraw(); flush(); }, PATIENCE);
  }

  ui.answered = () => {
    let answered = false;
    if (sent && readout().number === sent) {
      clearTimeout(timer);
      answered = true;
      sent = 0;
    }
    ui.silent = false;
    if (!sent && !waiting) {
      typed = null;
      if (gesture?.over && gesture.kind !== "key") gesture = null;
      if (gesture?.kind === "key" && performance.now() - lastKey > 700) gesture = null;
      while (!sent && queue.length) queue.shift()();
    }
    const asked = ui.asked;
    flush();
    return answered ? asked : null;
  };
  ui.close = () => clearTimeout(timer);
  number = readout().number || 0;
  return ui;
}

function createInspector(ui) {
  const inputs = ["x1", "y1", "x2", "y2"].map((name) =>
    html("input", { type: "number", step: "any", "aria-label": name, onchange: () => apply() }));
  const label = html("input", { type: "text", "aria-label": "label", placeholder: "label", onchange: () => apply() });
  const tool = (text, title, onclick) => html("button", { type: "button", title, onclick }, text);
  const bin = tool("Delete", "Delete", () => ui.remove(ui.selected));
  const undo = tool("Undo", "Ctrl+Z", () => ui.travel("undo")), redo = tool("Redo", "Ctrl+Shift+Z", () => ui.travel("redo"));
  const draw_ = tool("New box", "N", () => ui.draw());
  const fields = html("div", { class: "pr1-fields" }, ...inputs.map((input, i) => html("label", {}, ["x1", "y1", "x2", "y2"][i], input)), html("label", {}, "label", label));
  const tools = html("div", { class: "pr1-tools" }, draw_, bin, undo, redo);
  const help = html("p", { class: "pr1-note" }, "Drag a box or its corners; drag on the picture to draw. Tab, arrows (Shift: size, Ctrl: ×10), N, Delete, Ctrl+Z.");
  const root = html("div", { class: "pr1-inspector" }, tools, fields, help);
  function apply() {
    const k = ui.selected, item = ui.items()[k];
    if (!item) return;
    const numbers = inputs.map((input) => input.valueAsNumber), [w, h] = ui.scene().size;
    const [x1, y1, x2, y2] = numbers.map((v, i) => (Number.isFinite(v) ? clamp(v, 0, i % 2 ? h : w) : item.values[i]));
    const values = item.values.length === 2 ? [x1, y1] : [Math.min(x1, x2), Math.min(y1, y2), Math.max(x1, x2), Math.max(y1, y2)];
    ui.edit(k, values, label.value);
  }
  function draw() {
    const item = ui.items()[ui.selected], text = ui.readout().task === "ocr";
    root.hidden = text;
    inputs.forEach((input, i) => {
      input.disabled = !item || i >= item.values.length;
      if (document.activeElement !== input) input.value = input.disabled ? "" : Math.round(item.values[i] * 100) / 100;
    });
    label.disabled = bin.disabled = !item;
    if (document.activeElement !== label) label.value = item ? item.label : "";
    undo.disabled = !ui.readout().undo;
    redo.disabled = !ui.readout().redo;
  }
  return { root, draw };
}

function createTruth(ui) {
  const area = html("textarea", { spellcheck: "false", "aria-label": "truth as JSON", rows: 4 });
  const apply = html("button", { type: "button", onclick: () => ui.send({ action: "truth", truth: area.value }) }, "Use this truth");
  const root = html("details", { class: "pr1-truth" }, html("summary", {}, "The truth, as JSON"), area, apply);
  let drawn = null;
  function draw() {
    const { truth } = ui.scene(), written = ui.scene().draft ?? JSON.stringify(truth);
    if (written !== drawn) area.value = drawn = written;
  }
  return { root, draw };
}

function render({ model, el }) {
  const alert = html("p", { class: "pr1-alert", role: "alert" }), live = html("p", { class: "pr1-hidden", "aria-live": "polite" });
  const title = html("h3");
  let frame = 0, parts = [], speaking = 0;
  const ui = connect(model, () => { frame ||= requestAnimationFrame(draw); });
  const stage = createStage(ui);
  const [switches, numbers, pairs, group, run, text, transcript, inspector, truth] = parts = [
    createSwitches, createParts, createPairs, createGroup, createRun, createText, createTranscript, createInspector, createTruth,
  ].map((create) => create(ui));
  const root = html("div", { class: "pr1kit-explorer", "data-lm-suppress-shortcuts": "true", "aria-label": "reward explorer", role: "region" },
    title, alert,
    html("div", { class: "pr1-columns" },
      html("div", { class: "pr1-left" }, stage.root, inspector.root, run.root, truth.root),
      html("div", { class: "pr1-right" }, switches.root, numbers.root, pairs.root, transcript.root, text.root, group.root)),
    live);

  function draw() {
    frame = 0;
    if (!ui.scene().size) return;
    const { task, error, number: count = 0, results = [] } = ui.readout();
    if (ui.selected >= ui.items().length) ui.selected = ui.items().length - 1;
    put(title, [task, ui.scene().question].filter(Boolean).join(": "));
    put(alert, ui.silent ? "Python does not answer: is the kernel busy or gone?" : error || "");
    alert.hidden = !alert.textContent;
    stage.draw();
    for (const part of parts) part.draw();
    root.dataset.number = count;
    if (ui.refocus && ui.idle()) (ui.refocus = false), stage.focus(ui.selected);
    clearTimeout(speaking);
    speaking = setTimeout(() => put(live, results.map((r) => `${r.recipe} reward ${number(r.total, 2)}`).join(", ")), 600);
  }

  root.addEventListener("keydown", (event) => {
    const typing = event.target.matches("textarea, input[type=text], input[type=number]"), key = event.key.toLowerCase();
    const command = event.ctrlKey || event.metaKey;
    const inTruth = truth.root.contains(event.target);
    if (command && !inTruth && (key === "z" || key === "y")) {
      ui.travel(key === "y" || event.shiftKey ? "redo" : "undo");
      event.preventDefault();
    } else if (key === "n" && !command && !event.altKey && !typing && ui.readout().task !== "ocr") {
      ui.draw();
      event.preventDefault();
    }
    event.stopPropagation(); // the notebook's own shortcuts would delete cells
  });
  const onReadout = () => {
    const asked = ui.answered();
    draw();
    if (asked !== null) root.dataset.latency = (performance.now() - asked).toFixed(1); // ms from the move to the numbers
  };
  const events = [["change:readout", onReadout], ["change:scene", () => draw()], ["change:run", () => draw()]];
  for (const [event, handler] of events) model.on(event, handler);
  el.append(root);
  draw();
  return () => {
    ui.close();
    for (const [event, handler] of events) model.off(event, handler);
  };
}

export default { render };

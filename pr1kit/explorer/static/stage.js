// The picture: truths (blue, dashed), predictions (orange), matching lines; moved by pointer and by keyboard.
const HANDLES = [[-1, -1], [0, -1], [1, -1], [1, 0], [1, 1], [0, 1], [-1, 1], [-1, 0]];
const TAG = 15; // height of a name, in screen pixels
const DRAWN = 300; // boxes; more are read and scored, but nobody could tell them apart
const WORDS = ["ocr", "when", "what"]; // tasks whose answers have no boxes
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function createStage(ui) {
  const picture = svg("image", { "aria-hidden": "true" });
  const layers = ["predictions", "truths", "lines", "handles"].map((name) => svg("g", { class: `pr1-${name}` }));
  const [predictions, truths, lines, handles] = layers;
  const root = svg("svg", { class: "pr1-stage", role: "group", tabindex: -1, "aria-label": "Picture with boxes" }, picture, ...layers);
  let pointer = null;

  const size = () => ui.scene().size;
  const unit = () => ui.readout().unit || [1, 1];
  const snap = (v, axis) => Math.round(v / unit()[axis]) * unit()[axis];
  const snapped = (values) => values.map((v, i) => clamp(snap(v, i % 2), 0, size()[i % 2]));

  function at(event) {
    const matrix = root.getScreenCTM();
    return matrix ? [(event.clientX - matrix.e) / matrix.a, (event.clientY - matrix.f) / matrix.d] : [0, 0];
  }

  function moved(values, dx, dy) {
    const [w, h] = size(), last = values.length - 2;
    dx = clamp(snap(dx, 0), -values[0], w - values[last]);
    dy = clamp(snap(dy, 1), -values[1], h - values[last + 1]);
    return values.map((v, i) => v + (i % 2 ? dy : dx));
  }

  function resized([x1, y1, x2, y2], [hx, hy], dx, dy) {
    const xs = [hx < 0 ? x1 + dx : x1, hx > 0 ? x2 + dx : x2].sort((a, b) => a - b);
    const ys = [hy < 0 ? y1 + dy : y1, hy > 0 ? y2 + dy : y2].sort((a, b) => a - b);
    return snapped([xs[0], ys[0], xs[1], ys[1]]);
  }

  root.addEventListener("pointerdown", (event) => {
    if (event.button || WORDS.includes(ui.readout().task)) return;
    const handle = event.target.closest("[data-handle]"), box = event.target.closest("[data-box]");
    const k = handle ? ui.selected : box ? Number(box.dataset.box) : -1;
    pointer = { id: event.pointerId, start: at(event), k, handle: handle && HANDLES[handle.dataset.handle], begun: false };
    ui.select(k);
    if (k >= 0) focus(k);
    root.setPointerCapture(event.pointerId);
    event.preventDefault();
  });

  root.addEventListener("pointermove", (event) => {
    if (!pointer || event.pointerId !== pointer.id) return;
    const [x, y] = at(event), [dx, dy] = [x - pointer.start[0], y - pointer.start[1]];
    const reach = (3 * size()[0]) / Math.max(root.clientWidth, 1);
    if (!pointer.begun) {
      if (Math.hypot(dx, dy) < reach || !ui.idle()) return;
      pointer.begun = ui.begin("pointer", pointer.k);
      if (pointer.begun && pointer.k < 0) pointer.k = ui.add([...pointer.start, ...pointer.start]);
      if (!pointer.begun) return;
      pointer.values = ui.local(pointer.k).values.slice();
    }
    const values = pointer.values, item = ui.local(pointer.k);
    if (!item) return;
    if (item.fresh) ui.change(pointer.k, resized(values, [dx < 0 ? -1 : 1, dy < 0 ? -1 : 1], dx, dy));
    else if (pointer.handle) ui.change(pointer.k, resized(values, pointer.handle, dx, dy));
    else ui.change(pointer.k, moved(values, dx, dy));
  });

  for (const kind of ["pointerup", "pointercancel"])
    root.addEventListener(kind, (event) => {
      if (!pointer || event.pointerId !== pointer.id) return;
      if (pointer.begun) ui.end();
      pointer = null;
    });

  root.addEventListener("keydown", (event) => {
    const k = Number(event.target.closest?.("[data-box]")?.dataset.box ?? -1);
    if (k < 0) return;
    const arrow = ARROWS[event.key];
    if (arrow) {
      const step = event.ctrlKey || event.metaKey ? 10 : 1, [dx, dy] = arrow.map((a, i) => a * step * unit()[i]);
      ui.nudge(k, (values) => {
        if (!event.shiftKey || values.length === 2) return moved(values, dx, dy);
        const [x1, y1, x2, y2] = values; // never through the other side
        return snapped([x1, y1, Math.max(x2 + dx, x1 + unit()[0]), Math.max(y2 + dy, y1 + unit()[1])]);
      });
    } else if (event.key === "Delete" || event.key === "Backspace") ui.remove(k);
    else return;
    event.preventDefault();
  });

  function prediction() {
    const shapes = [svg("rect", { class: "pr1-halo" }), svg("rect", { class: "pr1-line" }), svg("circle"), createTag()];
    const box = svg("g", { class: "pr1-box", tabindex: 0, role: "button" }, ...shapes);
    box.addEventListener("focus", () => ui.select(Number(box.dataset.box)));
    return box;
  }

  // A name on a ground of its own, within the picture; `anchor` of its width lies left of x, y is its upper edge.
  function createTag() {
    return svg("g", { class: "pr1-tag" }, svg("rect"), svg("text"));
  }

  function setTag(tag, text, x, y, u, anchor) {
    const [ground, words] = tag.children, [w, h] = size();
    if (words.textContent !== text || !Number(tag.dataset.width)) {
      put(words, text);
      tag.dataset.width = words.getComputedTextLength() / u; // screen pixels, measured once for each text
    }
    const width = (Number(tag.dataset.width) + 6) * u;
    const left = clamp(x - anchor * width, 0, w - width), top = clamp(y, 0, h - TAG * u);
    fill(ground, { x: left, y: top, width, height: TAG * u, rx: 2 * u }, []);
    fill(words, { x: left + 3 * u, y: top + (TAG - 4) * u }, []);
  }

  function place(rect, [x1, y1, x2, y2]) {
    fill(rect, { x: x1, y: y1, width: Math.max(x2 - x1, 0), height: Math.max(y2 - y1, 0) }, []);
  }

  function draw() {
    const scene = ui.scene(), readout = ui.readout(), [w, h] = scene.size, items = ui.here().slice(0, DRAWN);
    const u = w / Math.max(root.clientWidth, 1), result = ui.shown(), shown = scene.pictures[ui.at];
    if (picture.getAttribute("href") !== shown) fill(picture, { href: shown }, []);
    fill(picture, { width: w, height: h }, []);
    fill(root, { viewBox: `0 0 ${w} ${h}` }, []);
    root.style.setProperty("--u", u);
    root.style.aspectRatio = `${w} / ${h}`;
    root.classList.toggle("pr1-crisp", Math.max(w, h) <= 256);
    const objects = scene.objects[ui.at], matches = result?.frames[ui.at] ?? [];
    const partner = new Map(matches.map(([p, t, s]) => [p, [t, s]])), found = new Map(matches.map(([p, t]) => [t, p]));

    pool(predictions, items.length, prediction).forEach((box, i) => {
      const { values, label, index, k } = items[i], [halo, line, dot, tag] = box.children, isBox = values.length === 4;
      const pair = partner.get(index);
      box.dataset.box = k;
      box.classList.toggle("pr1-selected", k === ui.selected);
      box.classList.toggle("pr1-alone", Boolean(result && !pair));
      for (const rect of [halo, line]) {
        rect.style.display = isBox ? "" : "none";
        if (isBox) place(rect, values);
      }
      dot.style.display = isBox ? "none" : "";
      fill(dot, { cx: values[0], cy: values[1], r: 6 * u }, []);
      const name = [label && readout.task === "detection" ? label : "", `p${index}`].join(" ").trim();
      setTag(tag, result && !pair ? `${name} ✕` : name, values[0], values[1] - TAG * u, u, 0);
      const where = values.map((v) => Math.round(v * 100) / 100).join(", ");
      const state = pair ? `matched with object ${pair[0]}, score ${number(pair[1], 2)}` : "without a partner";
      fill(box, { "aria-label": `Prediction ${index}${label ? ` ${label}` : ""} at ${where}, ${state}` }, []);
    });

    pool(truths, objects.length, () => svg("g", {}, svg("rect"), svg("circle"), createTag())).forEach((g, i) => {
      const [rect, dot, tag] = g.children, { values, index: t, label: named } = objects[i], isBox = values.length === 4;
      rect.style.display = isBox ? "" : "none";
      dot.style.display = isBox ? "none" : "";
      if (isBox) place(rect, values);
      fill(dot, { cx: values[0], cy: values[1], r: 7 * u }, []);
      const missed = result && !found.has(t) && !WORDS.includes(readout.task), said = found.has(t) && ui.byIndex(found.get(t))?.label;
      const name = (readout.task === "detection" && named) || "";
      const label = name === said ? "" : name; // where they agree, the prediction's tag says it
      g.classList.toggle("pr1-alone", Boolean(missed));
      const [right, bottom] = isBox ? values.slice(2) : values;
      setTag(tag, `${label} t${t}${missed ? " missed" : ""}`.trim(), right, bottom, u, 1);
    });

    const centre = (v) => [(v[0] + v[v.length - 2]) / 2, (v[1] + v[v.length - 1]) / 2];
    const object = (t) => objects.find((each) => each.index === t);
    const drawn = matches.filter(([p, t]) => ui.byIndex(p) && object(t));
    pool(lines, drawn.length, () => svg("g", {}, svg("line", { class: "pr1-halo" }), svg("line"), svg("circle"), svg("circle"), createTag())).forEach(
      (g, i) => {
        const [p, t, score] = drawn[i], [x1, y1] = centre(ui.byIndex(p).values), [x2, y2] = centre(object(t).values);
        for (const line of [g.children[0], g.children[1]]) fill(line, { x1, y1, x2, y2 }, []);
        fill(g.children[2], { cx: x1, cy: y1, r: 3 * u }, []);
        fill(g.children[3], { cx: x2, cy: y2, r: 3 * u }, []);
        setTag(g.children[4], number(score, 2), (x1 + x2) / 2, (y1 + y2) / 2 - (TAG / 2) * u, u, 0.5);
      },
    );

    const active = items.find((item) => item.k === ui.selected), grips = active && active.values.length === 4 ? HANDLES : [];
    pool(handles, grips.length, (i) => svg("g", { "data-handle": i }, svg("circle"), svg("circle"))).forEach((g, i) => {
      const [x1, y1, x2, y2] = active.values, [hx, hy] = HANDLES[i];
      const at = { cx: x1 + ((hx + 1) / 2) * (x2 - x1), cy: y1 + ((hy + 1) / 2) * (y2 - y1) };
      const small = (hx && !hy && y2 - y1 < 44 * u) || (hy && !hx && x2 - x1 < 44 * u);
      g.style.display = small ? "none" : "";
      g.style.cursor = hx && hy ? (hx === hy ? "nwse-resize" : "nesw-resize") : hx ? "ew-resize" : "ns-resize";
      const reach = Math.min(11 * u, 3 * u + 0.25 * Math.min(x2 - x1, y2 - y1)); // leave room to take a small box
      fill(g.children[0], { ...at, r: Math.max(reach, 5 * u), class: "pr1-reach" }, []);
      fill(g.children[1], { ...at, r: 4.5 * u }, []);
    });
  }

  const focus = (k) => (predictions.querySelector(`[data-box="${k}"]`) ?? root).focus({ preventScroll: true });
  new ResizeObserver(() => ui.scene().size && draw()).observe(root);
  return { root, draw, focus };
}

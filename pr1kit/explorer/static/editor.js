// What is written: the completion, one box by its numbers, the truth.
// The raw completion. A layer behind the text area marks what was read (orange) and what could not be (vermillion).
function createText(ui) {
  const area = html("textarea", { spellcheck: "false", "aria-label": "completion", rows: 5, readonly: ui.fixed });
  const marks = html("div", { class: "pr1-marks", "aria-hidden": "true" });
  const faults = html("ul", { class: "pr1-faults" }), note = html("span");
  const root = html("section", { class: "pr1-text" }, html("h4", {}, "Completion ", note), html("div", { class: "pr1-paper" }, marks, area), faults);
  area.addEventListener("input", () => ui.type(area.value));
  area.addEventListener("scroll", () => (marks.scrollTop = area.scrollTop));
  function draw() {
    const { text = "", items = [], region = [0, 0], reason, explicit } = ui.readout();
    if (!ui.typing() && area.value !== text) area.value = text;
    const shown = area.value;
    put(note, text.length > 2000 ? `${text.length.toLocaleString("en")} characters` : "");
    const wrong = items.filter((item) => item.fault).map((item) => ({ span: item.span, fault: item.fault }));
    if (reason && !wrong.length) wrong.push({ span: region, fault: reason });
    const spans = items.filter((item) => !item.fault).map((item) => ({ span: item.span }));
    const sorted = [...spans, ...wrong].sort((a, b) => a.span[0] - b.span[0]);
    const nodes = [];
    let at = 0;
    if (shown === text) {
      for (const { span: [start, end], fault } of sorted) {
        if (start < at || end <= start) continue;
        nodes.push(shown.slice(at, start), html("mark", { class: fault ? "pr1-fault" : false }, shown.slice(start, end)));
        at = end;
      }
    }
    marks.replaceChildren(...nodes, shown.slice(at) + "\n");
    marks.scrollTop = area.scrollTop;
    pool(faults, Math.min(wrong.length, 8), () => html("li", {}, html("button", { type: "button" }), html("span"))).forEach((row, i) => {
      const { span: [start, end], fault } = wrong[i], piece = text.slice(start, Math.min(end, start + 30));
      put(row.firstElementChild, fault);
      put(row.lastElementChild, piece ? ` at character ${start + 1}: ${piece}${end > start + 30 ? "…" : ""}` : "");
      row.firstElementChild.onclick = () => (area.focus(), area.setSelectionRange(start, end));
    });
    fill(area, { "aria-invalid": String(Boolean(wrong.length && explicit !== undefined)) }, []);
  }
  return { root, draw };
}

// How a transcript differs from the truth: what was read wrongly, what is missing.
function createTranscript(ui) {
  const said = html("p", { class: "pr1-said" });
  const root = html("section", {}, html("h4", {}, "Letter by letter"), said);
  function draw() {
    const { transcript = [] } = ui.readout();
    root.hidden = !transcript.length;
    said.replaceChildren(...transcript.map(([text, mark]) => html("span", { class: `pr1-${mark}` }, text)));
  }
  return { root, draw };
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
  const more = html("span", {}, " Keys “,” and “.”: a frame back, a frame on.");
  const help = html("p", { class: "pr1-note" }, "Drag a box or its corners; drag on the picture to draw. Tab, arrows (Shift: size, Ctrl: ×10), N, Delete, Ctrl+Z.", more);
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
    const item = ui.items()[ui.selected], { task } = ui.readout();
    root.hidden = WORDS.includes(task);
    more.hidden = ui.scene().pictures.length < 2;
    inputs.forEach((input, i) => {
      input.disabled = !item || i >= item.values.length;
      if (document.activeElement !== input) input.value = input.disabled ? "" : Math.round(item.values[i] * 100) / 100;
    });
    bin.disabled = !item;
    label.disabled = !item || task === "tracking";
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
    const { truth } = ui.scene(), written = JSON.stringify(truth);
    if (written !== drawn) area.value = drawn = written;
  }
  return { root, draw };
}

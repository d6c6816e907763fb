// The way to Python: the page asks for changes, and draws what the hand has moved until the answer is there.
// One request is under way at a time; of those that wait, the newest of a gesture replaces the older.
const PATIENCE = 4000; // ms without an answer, after which the page says so
const PAUSE = 900; // ms between two keys, after which undo takes them apart

function connect(model, redraw) {
  const name = Math.random().toString(36).slice(2); // two views of one explorer never take each other's answers
  const waiting = [], later = []; // messages; and what has to begin from an answered state
  let turned = 0; // the frame that is shown
  let count = 0, sent = "", timer = 0, gesture = null, typed = null, writing = "", lastKey = 0;
  const readout = () => model.get("readout") || {};
  const valid = () => (readout().items || []).map((item, place) => ({ ...item, place })).filter((item) => !item.fault);
  const idle = () => !sent && !waiting.length;
  const fresh = () => `${name}-${(count += 1)}`;

  function flush() {
    if (sent || !waiting.length) return;
    sent = fresh();
    model.send({ ...waiting.shift(), asked: sent });
    clearTimeout(timer);
    timer = setTimeout(() => { ui.silent = true; sent = ""; redraw(); flush(); }, PATIENCE);
  }

  function send(message) {
    const last = waiting[waiting.length - 1];
    if (message.action !== "items") gesture = null;
    if (last && message.gesture && last.gesture === message.gesture) waiting.pop();
    waiting.push(message);
    flush();
    redraw();
  }

  function commit() {
    const items = gesture.items.map(({ values, label, place, at }) => ({ values, label, place, at }));
    send({ action: "items", items, gesture: gesture.id });
    redraw();
  }

  // A gesture is one entry for undo; its moves count from the answer as it was when it began.
  function begin(kind, k) {
    if (!idle() || (k >= 0 && !valid()[k])) return false;
    gesture = { id: fresh(), kind, k, over: kind !== "pointer" };
    gesture.items = valid().map(({ values, label, place, at }) => ({ values: values.slice(), label, place, at }));
    return true;
  }

  const ui = {
    selected: -1, column: 0, silent: false, refocus: false,
    readout, idle, send, begin,
    scene: () => model.get("scene") || {},
    run: () => model.get("run") || {},
    shown: () => (readout().results || [])[Math.min(ui.column, (readout().results || []).length - 1)],
    typing: () => typed !== null,
    local: (k) => gesture?.items[k],
    get at() { return Math.min(turned, (ui.scene().pictures?.length ?? 1) - 1); },
    // Show another frame; what was selected stays so where its track goes on.
    turn(at) {
      const index = ui.items()[ui.selected]?.index;
      turned = clamp(at, 0, ui.scene().pictures.length - 1);
      ui.selected = ui.here().find((item) => item.index === index)?.k ?? -1;
      redraw();
    },
    // The items as they are drawn: those read from the text, and where the hand has moved them.
    items() {
      const read = valid().map(({ values, label, prediction, at }, k) => ({ values, label, index: prediction, at, k }));
      if (!gesture || gesture.items.length !== read.length) return read;
      return read.map((item, k) => ({ ...item, values: gesture.items[k].values, label: gesture.items[k].label }));
    },
    here: () => ui.items().filter((item) => item.at === ui.at),
    byIndex: (index) => ui.here().find((item) => item.index === index),
    select(k) { if (ui.selected !== k) { ui.selected = k; redraw(); } },
    show(column) { ui.column = column; redraw(); },
    set: (changes) => send({ action: "set", ...changes }),

    type(text) {
      if (performance.now() - lastKey > PAUSE) writing = fresh();
      lastKey = performance.now();
      typed = text;
      send({ action: "text", text, gesture: writing });
      redraw();
    },
    change(k, values) {
      gesture.items[k].values = values;
      commit();
    },
    add(values) {
      const { truth, question } = ui.scene(), last = gesture.items[gesture.items.length - 1];
      const label = last?.label || truth.labels[0] || (readout().task === "detection" ? "object" : question) || "";
      gesture.items.push({ values, label, place: null, at: ui.at, fresh: true });
      return (ui.selected = gesture.items.length - 1);
    },
    end() {
      if (!gesture) return;
      gesture.over = true;
      if (idle()) gesture = null;
      redraw();
    },
    // Keys held down are one gesture.
    nudge(k, change) {
      const held = gesture?.kind === "key" && gesture.k === k && performance.now() - lastKey < PAUSE;
      if (!held && !begin("key", k)) return void later.push(() => valid()[k] && ui.nudge(k, change));
      lastKey = performance.now();
      ui.change(k, change(gesture.items[k].values));
    },
    once(edit) {
      if (!begin("once", -1)) return void later.push(() => ui.once(edit));
      edit(gesture.items);
      commit();
    },
    edit: (k, values, label) => ui.once((items) => items[k] && Object.assign(items[k], { values, label })),
    remove: (k) => ui.once((items) => { items.splice(k, 1); ui.selected = Math.min(k, items.length - 1); ui.refocus = true; }),
    draw() {
      const [w, h] = ui.scene().size, unit = readout().unit;
      const at = (share, side, axis) => Math.round((share * side) / unit[axis]) * unit[axis];
      ui.once(() => { ui.add([at(0.375, w, 0), at(0.375, h, 1), at(0.625, w, 0), at(0.625, h, 1)]); ui.refocus = true; });
    },
    travel(action) {
      if (!idle()) return void later.push(() => ui.travel(action));
      typed = null;
      send({ action });
    },
    // A new readout is there, whoever asked for it.
    answered() {
      if (sent && readout().asked === sent) {
        sent = "";
        clearTimeout(timer);
      }
      ui.silent = false;
      flush();
      if (!idle()) return;
      typed = null;
      if (gesture?.over && (gesture.kind !== "key" || performance.now() - lastKey > PAUSE)) gesture = null;
      while (idle() && later.length) later.shift()();
    },
    close: () => clearTimeout(timer),
  };
  return ui;
}

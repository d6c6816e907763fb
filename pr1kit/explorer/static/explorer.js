// The widget: it draws `readout`, part by part. No reward is computed here.
function render({ model, el }) {
  const alert = html("p", { class: "pr1-alert", role: "alert" }), live = html("p", { class: "pr1-hidden", "aria-live": "polite" });
  const title = html("h3");
  let frame = 0, parts = [], speaking = 0;
  const ui = connect(model, () => { frame ||= requestAnimationFrame(draw); });
  const stage = createStage(ui), frames = createFrames(ui);
  const [switches, numbers, pairs, group, run, text, transcript, inspector, truth] = parts = [
    createSwitches, createParts, createPairs, createGroup, createRun, createText, createTranscript, createInspector, createTruth,
  ].map((create) => create(ui));
  const root = html("div", { class: "pr1kit-explorer", "data-lm-suppress-shortcuts": "true", "aria-label": "reward explorer", role: "region" },
    title, alert,
    html("div", { class: "pr1-columns" },
      html("div", { class: "pr1-left" }, stage.root, frames.root, inspector.root, run.root, truth.root),
      html("div", { class: "pr1-right" }, switches.root, numbers.root, pairs.root, transcript.root, text.root, group.root)),
    live);

  function draw() {
    frame = 0;
    if (!ui.scene().size) return;
    const { task, error, asked = "", results = [] } = ui.readout();
    if (ui.idle() && ui.selected >= 0 && !ui.here().some((item) => item.k === ui.selected)) ui.selected = ui.here().pop()?.k ?? -1;
    put(title, [task, ui.scene().question].filter(Boolean).join(": "));
    put(alert, ui.silent ? "Python does not answer: is the kernel busy or gone?" : error || "");
    alert.hidden = !alert.textContent;
    stage.draw();
    frames.draw();
    for (const part of parts) part.draw();
    fill(root, { "data-asked": asked, "aria-busy": String(!ui.idle()) }, []);
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
    } else if (key === "n" && !command && !event.altKey && !typing && !WORDS.includes(ui.readout().task)) {
      ui.draw();
      event.preventDefault();
    } else if ((key === "," || key === ".") && !typing && ui.scene().pictures.length > 1) {
      ui.turn(ui.at + (key === "," ? -1 : 1));
      event.preventDefault();
    }
    event.stopPropagation(); // the notebook's own shortcuts would delete cells
  });
  const onReadout = () => {
    ui.answered();
    draw();
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

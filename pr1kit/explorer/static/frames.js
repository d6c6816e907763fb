// The frames of a video: a slider, and a strip that tells in which frames something is true (blue) and answered (orange).
const MANY = 16; // frames; of more the strip shows the bars without pictures

function createFrames(ui) {
  const slider = html("input", { type: "range", min: 0, step: 1, "aria-label": "frame", oninput: () => ui.turn(Number(slider.value)) });
  const step = (by) => html("button", { type: "button", "aria-label": by < 0 ? "frame back" : "frame on", onclick: () => ui.turn(ui.at + by) }, by < 0 ? "‹" : "›");
  const said = html("span"), strip = html("div", { class: "pr1-film" });
  const root = html("section", { class: "pr1-frames", "aria-label": "frames" }, html("div", { class: "pr1-tools" }, step(-1), slider, step(1), said), strip);
  const cell = (at) => html("button", { type: "button", tabindex: -1, onclick: () => ui.turn(at) }, html("img", { alt: "" }), html("i"), html("i"), html("small"));

  function draw() {
    const { pictures, times, objects, truth } = ui.scene(), { task, spans = [] } = ui.readout(), count = pictures.length;
    root.hidden = count < 2;
    if (root.hidden) return strip.replaceChildren();
    const within = (all, at) => all.some(([first, last]) => first <= at && at <= last);
    const shares = ui.shown()?.shares ?? [], items = ui.items(), rounded = (value) => Math.round(value * 100) / 100;
    put(said, `frame ${ui.at + 1} of ${count}, ${rounded(times[ui.at])} s`);
    fill(slider, { max: count - 1, "aria-valuetext": said.textContent }, []);
    slider.value = ui.at;
    strip.classList.toggle("pr1-many", count > MANY);
    pool(strip, count, cell).forEach((button, at) => {
      const [picture, true_, answered, words] = button.children, share = shares[at] ?? null, here = items.some((item) => item.at === at);
      const so = task === "when" ? within(truth.spans, at) : objects[at].length > 0;
      const claimed = task === "when" ? within(spans, at) : here;
      if (count <= MANY && picture.src !== pictures[at]) picture.src = pictures[at];
      true_.classList.toggle("pr1-so", so);
      answered.classList.toggle("pr1-claimed", claimed);
      answered.style.setProperty("--share", share ?? 1);
      put(words, share === null || count > MANY ? "" : number(share, 2));
      const state = [so && "true", claimed && "answered", share !== null && `overlap ${number(share, 2)}`].filter(Boolean).join(", ");
      fill(button, { "aria-label": `frame ${at + 1}${state ? `: ${state}` : ""}`, "aria-pressed": String(at === ui.at), "data-value": share }, []);
    });
  }
  return { root, draw };
}

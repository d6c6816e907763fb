// The numbers beside the picture: switches, parts, pairs, the group, the run, and the completion's text.
const MATCHINGS = ["optimal", "greedy", "sequential"];

function createSwitches(ui) {
  const choices = {
    task: choice("task", (task) => ui.set({ task })),
    recipe: choice("recipe", (recipe) => ui.set({ recipe })),
    compare: choice("beside", (compare) => ui.set({ compare })),
    matching: choice("matching", (matching) => ui.set({ matching })),
  };
  const root = html("div", { class: "pr1-switches" }, ...Object.values(choices).map((each) => each.root));
  const draw = () => {
    if (!ui.idle()) return; // what was chosen stays chosen until Python has answered
    const readout = ui.readout(), { tasks = [], recipes = [] } = readout;
    const names = { task: tasks, recipe: recipes, compare: ["", ...recipes], matching: MATCHINGS };
    for (const [name, each] of Object.entries(choices)) each.offer(names[name], readout[name] ?? "");
  };
  return { root, draw };
}

// One row for each part, one column for each recipe. A box unticked is a part dropped.
function createParts(ui) {
  const head = html("tr"), body = html("tbody"), reason = html("p", { class: "pr1-reason" });
  const table = html("table", { class: "pr1-parts" }, html("thead", {}, head), body);
  const bar = () => html("td", {}, html("span", { class: "pr1-bar" }, html("i")), html("b"));
  function draw() {
    const { results = [], drop = [] } = ui.readout();
    const names = [...new Set(results.flatMap((each) => each.parts.map((part) => part.name)))];
    pool(head, results.length + 1, (i) =>
      i ? html("th", {}, html("button", { type: "button", onclick: () => ui.show(i - 1) }), html("output"), html("small"))
        : html("th", {}, "reward"),
    ).slice(1).forEach((cell, i) => {
      const [name, total, advantage] = cell.children, { recipe, total: value, advantage: a } = results[i];
      put(name, recipe);
      fill(name, { "aria-pressed": String(i === ui.column), title: "show this recipe's matching in the picture" }, []);
      put(total, number(value));
      fill(total, { "aria-label": `reward ${recipe}`, "data-value": value }, []);
      put(advantage, a == null ? "" : `advantage ${signed(a)}`);
      advantage.className = a > 1e-6 ? "pr1-better" : a < -1e-6 ? "pr1-worse" : "";
    });
    const box = (name) => html("th", {}, ui.fixed ? name : html("label", {}, html("input", { type: "checkbox" }), name));
    if (body.dataset.names !== names.join()) body.replaceChildren(...names.map((name) => html("tr", {}, box(name))));
    body.dataset.names = names.join();
    [...body.children].forEach((row, r) => {
      const name = names[r], tick = row.querySelector("input");
      if (tick && ui.idle()) tick.checked = !drop.includes(name);
      if (tick) tick.onchange = () => ui.set({ drop: tick.checked ? drop.filter((d) => d !== name) : [...drop, name] });
      while (row.children.length > results.length + 1) row.lastElementChild.remove();
      while (row.children.length < results.length + 1) row.append(bar());
      results.forEach(({ parts }, i) => {
        const part = parts.find((each) => each.name === name), cell = row.children[i + 1];
        const share = part ? clamp(part.value, -1, 1) : 0;
        cell.classList.toggle("pr1-dropped", Boolean(part?.dropped));
        cell.classList.toggle("pr1-negative", share < 0);
        cell.firstElementChild.firstElementChild.style.width = `${100 * Math.abs(share)}%`;
        put(cell.lastElementChild, part ? number(part.value) : "—");
        fill(cell, { "data-value": part?.value }, []);
      });
    });
    put(reason, ui.readout().reason ? `Reading the answer: ${ui.readout().reason}.` : "");
  }
  return { root: html("div", {}, table, reason), draw };
}

// Every prediction against every object; the pairs that the matching chose are framed.
function createPairs(ui) {
  const table = html("table", { class: "pr1-pairs" }), sums = html("p", { class: "pr1-sums" });
  const root = html("section", {}, html("h4", {}, "Who answers whom: overlap of each prediction with each object"), table, sums);
  function draw() {
    const { overlap = [], sums: totals = {}, matching } = ui.readout(), m = overlap[0]?.length ?? 0;
    root.hidden = !m || overlap.length > 12 || m > 12;
    const chosen = new Set((ui.shown()?.matches ?? []).map(([p, t]) => `${p},${t}`));
    pool(table, root.hidden ? 0 : overlap.length + 1, () => html("tr")).forEach((row, i) =>
      pool(row, m + 1, (j) => html(i && j ? "td" : "th")).forEach((cell, j) => {
        if (!i || !j) return put(cell, i ? `p${i - 1}` : j ? `t${j - 1}` : "");
        const value = overlap[i - 1][j - 1];
        put(cell, value ? number(value, 2) : "·");
        cell.style.setProperty("--share", value);
        cell.classList.toggle("pr1-chosen", chosen.has(`${i - 1},${j - 1}`));
      }),
    );
    pool(sums, MATCHINGS.length + 1, () => html("span")).forEach((cell, i) => {
      const how = MATCHINGS[i - 1];
      put(cell, i ? `${how} ${number(totals[how] ?? 0, 2)}` : "summed overlap:");
      cell.classList.toggle("pr1-chosen", how === matching);
    });
  }
  return { root, draw };
}

// The other answers to the question: bars of reward, green above the group's mean and vermillion below.
function createGroup(ui) {
  const bars = html("div", { class: "pr1-group", role: "group", "aria-label": "answers of the group" });
  const note = html("p", { class: "pr1-note" });
  const join = html("button", { type: "button", onclick: () => ui.send({ action: "join" }) }, "Put this answer in the group");
  const leave = html("button", { type: "button", onclick: () => ui.send({ action: "leave" }) }, "Empty the group");
  const table = html("table", { class: "pr1-pairs" }), title = html("h4", {}, "PerPO's weights of its pairs: the row beats the column");
  const weights = html("section", { class: "pr1-weights" }, title, table);
  const root = html("section", {}, html("h4", {}, "The group and its advantages"), bars, note, html("div", { class: "pr1-tools" }, join, leave), weights);
  const bar = (i) => html("button", { type: "button", onclick: () => ui.send({ action: "member", member: i }) }, html("i"), html("small"), html("small"));
  function draw() {
    const result = ui.shown(), all = result ? result.group : [], many = all.length > 1, run = ui.run();
    const top = Math.max(...all.map((each) => each.total), result?.top ?? 1);
    pool(bars, many ? all.length : 0, bar).forEach((button, i) => {
      const { total, advantage } = all[i], tone = advantage > 1e-6 ? "pr1-better" : advantage < -1e-6 ? "pr1-worse" : "";
      button.className = `${tone} ${i === result.place ? "pr1-here" : ""}`;
      button.firstElementChild.style.height = `${100 * clamp(total / top, 0.02, 1)}%`;
      put(button.children[1], number(total, 2));
      put(button.children[2], signed(advantage));
      const logged = run.rewards ? `; logged: reward ${run.rewards[i]}, advantage ${run.advantages[i]}` : "";
      const text = `answer ${i}: reward ${number(total)}, advantage ${signed(advantage)}${logged}`;
      fill(button, { "aria-label": text, title: text, "aria-pressed": String(i === result.place) }, []);
    });
    const logged = run.rewards && run.rewards[result?.place] !== undefined;
    put(note, !many ? "An advantage compares answers: put two or more into the group."
      : logged ? `Logged for this answer: reward ${number(run.rewards[result.place])}, advantage ${signed(run.advantages[result.place])}` + (run.recipe ? ` (${run.recipe}).` : ".")
      : `Mean reward ${number(all.reduce((sum, each) => sum + each.total, 0) / all.length)} over ${all.length} answers.`);
    join.hidden = Boolean(run.name);
    leave.hidden = join.hidden || !all[1];
    const pairs = result?.pair_weights ?? [], heaviest = Math.max(...pairs.flat(), 1e-9);
    weights.hidden = !many || !pairs.length || pairs.length > 12;
    pool(table, weights.hidden ? 0 : pairs.length + 1, () => html("tr")).forEach((row, i) =>
      pool(row, pairs.length + 1, (j) => html(i && j ? "td" : "th")).forEach((cell, j) => {
        if (!i || !j) return put(cell, i || j ? `${(i || j) - 1}` : "");
        const weight = pairs[i - 1][j - 1];
        put(cell, weight ? number(weight, 2) : "·");
        cell.style.setProperty("--share", weight / heaviest);
        cell.classList.toggle("pr1-chosen", Boolean(weight) && (i - 1 === result.place || j - 1 === result.place));
      }),
    );
  }
  return { root, draw };
}

// The steps of a training run: mean reward over training, and where we are.
function createRun(ui) {
  const go = (step, group = 0) => {
    slider.value = step; // where we shall be: two quick clicks are two steps
    ui.send({ action: "step", step: Number(slider.value), group: Number(group), gesture: "step" });
  };
  const slider = html("input", { type: "range", "aria-label": "step", oninput: () => go(slider.value) });
  const field = html("input", { type: "number", "aria-label": "step number", onchange: () => go(field.value) });
  const step = (by) => html("button", { type: "button", "aria-label": by < 0 ? "step back" : "step on", onclick: () => go(Number(slider.value) + by) }, by < 0 ? "‹" : "›");
  const jump = (s) => html("button", { type: "button", onclick: () => ui.send({ action: "step", step: s, group: ui.run().id }) }, String(s));
  const question = html("select", { "aria-label": "question of this step", onchange: () => go(ui.run().step, question.value) });
  const line = svg("polyline"), spread = svg("polyline", { class: "pr1-spread" }), mark = svg("line");
  const chart = svg("svg", { class: "pr1-curve", viewBox: "0 0 100 30", preserveAspectRatio: "none", role: "img" }, spread, line, mark);
  const again = html("p", { class: "pr1-tools" }), title = html("h4");
  const find = html("button", { type: "button", onclick: () => ui.send({ action: "again" }) }, "When else was this asked?");
  const key = html("p", { class: "pr1-note" }, "black: mean reward of the step; grey: spread within its groups");
  const root = html("section", { class: "pr1-run" }, title, chart, key, html("div", { class: "pr1-tools" }, step(-1), slider, step(1), field), question, again);
  chart.addEventListener("click", (event) => {
    const { first, last } = ui.run(), box = chart.getBoundingClientRect();
    go(Math.round(first + ((event.clientX - box.left) / box.width) * (last - first)));
  });
  function draw() {
    const run = ui.run();
    root.hidden = !run.name;
    if (root.hidden) return;
    put(title, `Run ${run.name}: step ${run.step} of ${run.last}`);
    for (const input of [slider, field]) {
      fill(input, { min: run.first, max: run.last }, []);
      if (ui.idle() && (document.activeElement !== input || input === slider)) input.value = run.step;
    }
    const top = Math.max(...run.curve.map((row) => row.mean), 1e-6), x = (s) => (100 * (s - run.first)) / Math.max(run.last - run.first, 1);
    const points = (name) => run.curve.map((row) => `${x(row.step)},${29 - (27 * row[name]) / top}`).join(" ");
    fill(line, { points: points("mean") }, []);
    fill(spread, { points: points("spread") }, []);
    fill(mark, { x1: x(run.step), x2: x(run.step), y1: 0, y2: 30 }, []);
    const ends = run.curve.length ? [run.curve[0], run.curve[run.curve.length - 1]] : [];
    fill(chart, { "aria-label": ends.map((row) => `mean reward ${number(row.mean, 2)} at step ${row.step}`).join(", ") }, []);
    pool(question, run.questions.length, (i) => html("option", { value: i })).forEach((each, i) => put(each, `${i + 1}. ${run.questions[i]}`));
    question.value = run.index;
    const others = (run.again ?? []).filter((s) => s !== run.step);
    again.replaceChildren(...(run.again ? [others.length ? "also at step" : "at no other step", ...others.map(jump)] : [find]));
  }
  return { root, draw };
}

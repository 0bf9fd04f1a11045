"use strict";
// The page: reads the prompt from the fields, runs the model, and shows what it computed.

(function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const model = decodeModel(data);
  const tasks = indexTasks(data);
  const colours = data.colours;
  const byId = (name) => document.getElementById(name);
  const state = { lines: [], query: "", head: 0, from: -1 };

  /** An element with attributes and children. */
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== false && value !== null) element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children);
    return element;
  }

  /** Numbers in [0, 1) that a seed decides (mulberry32). */
  function generator(seed) {
    let at = seed >>> 0;
    return function () {
      at = (at + 0x6d2b79f5) >>> 0;
      let mixed = Math.imul(at ^ (at >>> 15), at | 1);
      mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
      return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
    };
  }

  // Text and ids.

  function written(inputs) {
    return inputs.map((id) => data.alphabet[id]).join(data.format.separator);
  }

  // Drawing examples.

  const MOST_CHOICES = 500;

  /** The possible inputs of a task, token by token at the places it reads; none when they are too many to list. */
  function choices(task) {
    if (task.kind === "table") return task.rows.length <= MOST_CHOICES ? task.rows.map(([key]) => key) : [];
    const values = [...task.values.keys()];
    if (values.length ** task.reads.length > MOST_CHOICES) return [];
    return task.reads
      .reduce((keys) => keys.flatMap((key) => values.map((value) => [...key, value])), [[]])
      .filter((key) => task.index.has(String(key.reduce((sum, token) => sum + task.values.get(token), 0))));
  }

  /** A choice as text, with a dot at each place that the task does not read. */
  function choiceText(task, key) {
    const shown = Array(data.layout.inputs).fill("·");
    task.reads.forEach((place, at) => (shown[place] = data.alphabet[key[at]]));
    return shown.join(data.format.separator);
  }

  function listChoices() {
    const task = tasks[Number(byId("new-task").value)];
    byId("new-input").replaceChildren(
      make("option", { value: "" }, "any input"),
      ...choices(task).map((key, at) => make("option", { value: at }, choiceText(task, key))),
    );
  }

  /** Inputs that task number `index` answers; `key` fixes the tokens at the places it reads. */
  function drawInputs(index, random, key = null) {
    const task = tasks[index];
    for (let attempt = 0; ; attempt++) {
      const inputs = Array.from({ length: data.layout.inputs }, () => data.inputs[Math.floor(random() * data.inputs.length)]);
      if (task.kind === "table") {
        const row = task.rows[Math.floor(random() * task.rows.length)][0];
        task.reads.forEach((place, at) => (inputs[place] = row[at]));
      } else if (key === null) {
        const values = [...task.values.keys()];
        task.reads.forEach((place) => (inputs[place] = values[Math.floor(random() * values.length)]));
      }
      if (key !== null) task.reads.forEach((place, at) => (inputs[place] = key[at]));
      if (taskAnswer(task, inputs) !== null || attempt > 200) return inputs;
    }
  }

  function drawExample(index, random, key = null) {
    const inputs = drawInputs(index, random, key);
    const answer = taskAnswer(tasks[index], inputs);
    return answer === null ? null : written(inputs) + data.format.arrow + data.alphabet[answer];
  }

  /** The counts nearest to the proportions of the sliders (largest remainders), in an order that the seed decides. */
  function drawPrompt() {
    const random = generator(Number(byId("seed").value) || 0);
    const total = Math.max(0, Math.min(data.layout.examples, Math.floor(Number(byId("count").value) || 0)));
    const weights = tasks.map((_, index) => Number(byId(`weight-${index}`).value));
    const sum = weights.reduce((one, other) => one + other, 0);
    const shares = weights.map((weight) => (sum ? (weight / sum) * total : 0));
    const counts = shares.map(Math.floor);
    const rest = shares.map((share, index) => [share - counts[index], index]).sort((a, b) => b[0] - a[0] || a[1] - b[1]);
    let missing = sum ? total - counts.reduce((one, other) => one + other, 0) : 0;
    for (const [, index] of rest) if (missing-- > 0) counts[index]++;
    const order = counts.flatMap((count, index) => Array(count).fill(index));
    for (let at = order.length - 1; at > 0; at--) {
      const other = Math.floor(random() * (at + 1));
      [order[at], order[other]] = [order[other], order[at]];
    }
    state.lines = order.map((index) => drawExample(index, random)).filter((line) => line !== null);
    render();
  }

  // The prompt's fields.

  /** Move a line; the focus goes with it, on the same button where that can be used. */
  function move(from, to, control = "line") {
    if (to < 0 || to >= state.lines.length) return;
    const [line] = state.lines.splice(from, 1);
    state.lines.splice(to, 0, line);
    render();
    const next = byId(`${control}-${to}`);
    (next.disabled ? byId(`line-${to}`) : next).focus();
  }

  function renderLines() {
    const list = byId("examples");
    list.replaceChildren(
      ...state.lines.map((line, at) =>
        make(
          "li",
          {},
          make("span", { class: "number", "aria-hidden": "true" }, `${at + 1}`),
          make("input", {
            id: `line-${at}`, type: "text", value: line, "aria-label": `example ${at + 1}`, autocomplete: "off", spellcheck: "false",
            oninput: (event) => { state.lines[at] = event.target.value; update(); },
            onkeydown: (event) => {
              if (!event.altKey || !["ArrowUp", "ArrowDown"].includes(event.key)) return;
              event.preventDefault();
              move(at, event.key === "ArrowUp" ? at - 1 : at + 1);
            },
          }),
          make("button", { id: `up-${at}`, type: "button", "aria-label": `move example ${at + 1} up`, disabled: at === 0, onclick: () => move(at, at - 1, "up") }, "↑"),
          make("button", { id: `down-${at}`, type: "button", "aria-label": `move example ${at + 1} down`, disabled: at === state.lines.length - 1, onclick: () => move(at, at + 1, "down") }, "↓"),
          make("button", {
            type: "button", "aria-label": `remove example ${at + 1}`,
            onclick: () => { state.lines.splice(at, 1); render(); (byId(`line-${Math.min(at, state.lines.length - 1)}`) || byId("add")).focus(); },
          }, "×"),
          make("span", { class: "tags", id: `tags-${at}` }),
        ),
      ),
    );
    byId("add").disabled = state.lines.length >= data.layout.examples;
    byId("clear").disabled = state.lines.length === 0;
  }

  /** The prompt as ids, or null; what is wrong stands at the fields. */
  function read() {
    const problems = [];
    const examples = state.lines.map((line, at) => {
      const field = byId(`line-${at}`), tags = byId(`tags-${at}`);
      try {
        const example = parseExample(data, line);
        field.removeAttribute("aria-invalid");
        const fits = tasks.filter((task) => taskAnswer(task, example.inputs) === example.answer);
        tags.textContent = fits.length ? fits.map((task) => task.name).join(", ") : "explained by no task";
        return example;
      } catch (error) {
        field.setAttribute("aria-invalid", "true");
        tags.textContent = "";
        problems.push(`Example ${at + 1}: ${error.message}.`);
        return null;
      }
    });
    let query = null;
    try {
      query = parseQuery(data, state.query);
      byId("query").removeAttribute("aria-invalid");
    } catch (error) {
      byId("query").setAttribute("aria-invalid", "true");
      problems.push(`Query: ${error.message}.`);
    }
    byId("problem").textContent = problems[0] || "";
    return problems.length ? null : { examples, query };
  }

  // What was computed.

  const digits = (value) => value.toFixed(4);

  function renderAnswer(prompt, result, exact) {
    const output = result.output[result.output.length - 1];
    const shown = new Set(exact.target.keys());
    output.forEach((value, id) => { if (value > 1e-4) shown.add(id); });
    const rows = [...shown].sort((a, b) => output[b] - output[a] || a - b).slice(0, 12);
    const largest = Math.max(1, ...rows.map((id) => Math.max(output[id], exact.target.get(id) || 0)));
    byId("bars").replaceChildren(
      ...rows.map((id) => {
        const answering = tasks.map((_, at) => at).filter((at) => taskAnswer(tasks[at], prompt.query) === id);
        const task = answering.find((at) => exact.shares[at] > 0) ?? answering[0];
        const colour = task === undefined ? "var(--soft)" : colours[task % colours.length];
        const target = exact.target.get(id) || 0;
        return make(
          "div", { class: "bar" },
          make("span", { class: "label" }, data.alphabet[id],
            make("span", { class: "tags" }, answering.map((at) => tasks[at].name).join(", ") || "no task’s answer")),
          make("span", { class: "track", "aria-hidden": "true" },
            make("span", { class: "fill", style: `width:${(100 * output[id]) / largest}%;background:${colour}` }),
            make("span", { class: "target", style: `left:${(100 * target) / largest}%` })),
          make("span", { class: "value" }, digits(output[id])),
        );
      }),
    );
    let error = 0;
    output.forEach((value, id) => (error += Math.abs(value - (exact.target.get(id) || 0))));
    const list = rows.map((id) => `${data.alphabet[id]} ${digits(output[id])} (exact ${digits(exact.target.get(id) || 0)})`);
    const count = prompt.examples.length;
    byId("summary").textContent =
      `${written(prompt.query)} after ${count} example${count === 1 ? "" : "s"}: ` +
      (list.length ? list.join(", ") : "no evidence, no answer") + `. |q̂ − q|₁ is ${error.toExponential(1)}` +
      (data.bound === null ? "." : `; the bound for every prompt is ${data.bound.toExponential(1)}.`);
  }

  function renderEvidence(prompt, result) {
    const [start] = data.evidence;
    const head = make("tr", {}, make("th", { scope: "col" }, "after"),
      ...tasks.map((task, index) => make("th", { scope: "col" }, make("span", { class: "swatch", style: `background:${colours[index % colours.length]}` }), task.name)));
    const rows = [];
    for (let seen = 0; seen <= prompt.examples.length; seen++) {
      const stream = result.stream[eqPosition(data, seen)];
      const label = seen === 0 ? "no example" : `${seen}. ${state.lines[seen - 1].trim()}`;
      rows.push(make("tr", {}, make("th", { scope: "row" }, label), ...tasks.map((_, index) => {
        const weight = stream[start + index];
        return make("td", {}, make("span", { class: "cell", style: `width:${(3.2 * weight).toFixed(2)}em;background:${colours[index % colours.length]}`, "aria-hidden": "true" }), digits(weight));
      })));
    }
    byId("evidence-table").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
  }

  function positionName(prompt, position, idsOf) {
    const { role, example } = roleOf(data, position);
    if (role === "bos") return "start";
    const number = example < prompt.examples.length ? `${example + 1}` : "query";
    return role === "eq" ? `${number}: arrow` : `${number}: ${data.alphabet[idsOf[position]]}`;
  }

  function renderAttention(prompt, result, idsOf) {
    const heads = data.heads;
    const { layer, head } = heads[state.head];
    const pattern = result.patterns[layer][head];
    const length = idsOf.length;
    const names = idsOf.map((_, position) => positionName(prompt, position, idsOf));
    const select = byId("from");
    const from = state.from >= 0 && state.from < length ? state.from : length - 1;
    select.replaceChildren(...names.map((name, position) => make("option", { value: position, selected: position === from }, name)));
    const largest = [...pattern[from]].map((share, key) => [share, key]).filter(([share]) => share > 0.005).sort((a, b) => b[0] - a[0] || a[1] - b[1]).slice(0, 20);
    byId("attends").textContent = `From “${names[from]}” to ` + largest.map(([share, key]) => `${names[key]} (${share.toFixed(3)})`).join(", ") + ".";
    drawPattern(pattern, names, from, heads[state.head].name);
  }

  /** The whole pattern, rows and columns labelled where there is room. */
  function drawPattern(pattern, names, from, head) {
    const length = names.length;
    const canvas = byId("pattern"), draw = canvas.getContext("2d");
    const labelled = length <= 64;
    const cell = labelled ? 13 : Math.max(2, Math.floor(832 / length));
    const margin = labelled ? 116 : 2;
    const size = margin + cell * length + 2, sharpness = window.devicePixelRatio || 1;
    canvas.width = canvas.height = size * sharpness;
    canvas.style.width = canvas.style.height = `${size}px`;
    canvas.setAttribute("aria-label", `attention of ${head}: rows are query positions, columns key positions; the text above says the chosen row`);
    const ink = getComputedStyle(document.documentElement).getPropertyValue("--ink");
    draw.setTransform(sharpness, 0, 0, sharpness, 0, 0);
    draw.clearRect(0, 0, size, size);
    if (labelled) {
      draw.fillStyle = `rgb(${ink})`;
      draw.font = "10px system-ui, sans-serif";
      draw.textBaseline = "middle";
      names.forEach((name, position) => {
        const label = name.length > 19 ? `${name.slice(0, 18)}…` : name;
        const middle = margin + (position + 0.5) * cell;
        draw.textAlign = "right";
        draw.fillText(label, margin - 5, middle);
        draw.save();
        draw.translate(middle, margin - 5);
        draw.rotate(-Math.PI / 2);
        draw.textAlign = "left";
        draw.fillText(label, 0, 0);
        draw.restore();
      });
    }
    for (let query = 0; query < length; query++) {
      for (let key = 0; key <= query; key++) {
        draw.fillStyle = `rgba(${ink}, ${pattern[query][key] < 0.004 ? 0.05 : pattern[query][key]})`;
        draw.fillRect(margin + key * cell, margin + query * cell, cell - (cell > 6 ? 1 : 0), cell - (cell > 6 ? 1 : 0));
      }
    }
    draw.strokeStyle = colours[0];
    draw.lineWidth = 2;
    draw.strokeRect(margin - 1, margin + from * cell - 1, cell * length + 1, cell + 1);
  }

  function update() {
    const prompt = read();
    byId("stale").hidden = prompt !== null;
    if (prompt === null) return;
    const idsOf = promptIds(data, prompt.examples, prompt.query);
    const result = forward(model, idsOf);
    renderAnswer(prompt, result, oracle(tasks, prompt.examples, prompt.query));
    renderEvidence(prompt, result);
    renderAttention(prompt, result, idsOf);
  }

  function render() {
    renderLines();
    update();
  }

  // Once, at the start.

  byId("sliders").replaceChildren(
    ...tasks.map((task, index) => {
      const value = make("output", { for: `weight-${index}` }, "1");
      return make("div", { class: "slider" },
        make("label", { for: `weight-${index}` }, make("span", { class: "swatch", style: `background:${colours[index % colours.length]}` }), task.name),
        make("input", { id: `weight-${index}`, type: "range", min: 0, max: 10, step: 1, value: 1, oninput: (event) => { value.textContent = event.target.value; drawPrompt(); } }),
        value);
    }),
  );
  byId("new-task").replaceChildren(...tasks.map((task, index) => make("option", { value: index }, task.name)));
  byId("head").replaceChildren(...data.heads.map((head, index) => make("option", { value: index }, `layer ${head.layer + 1}: ${head.name}`)));
  byId("circuits").replaceChildren(
    make("thead", {}, make("tr", {}, ...["layer", "part", "units", "what it does", "reads", "writes"].map((name) => make("th", { scope: "col" }, name)))),
    make("tbody", {}, ...data.circuits.map((circuit) => make("tr", {},
      make("td", {}, `${circuit.layer}`), make("th", { scope: "row" }, circuit.name), make("td", {}, circuit.kind === "attention" ? "head" : `${circuit.units}`),
      make("td", { class: "says" }, circuit.says), make("td", {}, circuit.reads.join(", ")), make("td", {}, circuit.writes.join(", "))))),
  );
  if (data.layout.inputs === 1) byId("inputs").replaceChildren(...data.inputs.map((id) => make("option", { value: data.alphabet[id] + data.format.arrow })));
  byId("count").max = data.layout.examples;
  byId("count").value = data.start.lines.length;
  let drawn = 1000;
  byId("add").addEventListener("click", () => {
    const index = Number(byId("new-task").value), chosen = byId("new-input").value;
    const key = chosen === "" ? null : choices(tasks[index])[Number(chosen)];
    const line = drawExample(index, generator(drawn++), key);
    if (line !== null && state.lines.length < data.layout.examples) state.lines.push(line);
    render();
  });
  byId("new-task").addEventListener("change", listChoices);
  listChoices();
  byId("clear").addEventListener("click", () => { state.lines = []; render(); });
  for (const name of ["count", "seed"]) byId(name).addEventListener("change", drawPrompt);
  byId("draw").addEventListener("click", () => { byId("seed").value = Number(byId("seed").value) + 1; drawPrompt(); });
  byId("query").addEventListener("input", (event) => { state.query = event.target.value; update(); });
  byId("head").addEventListener("change", (event) => { state.head = Number(event.target.value); update(); });
  byId("from").addEventListener("change", (event) => { state.from = Number(event.target.value); update(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", update);
  state.lines = [...data.start.lines];
  state.query = byId("query").value = data.start.query;
  state.head = data.heads.length - 1;
  byId("head").value = state.head;
  render();
  const worst = selfCheck(model, data);
  const good = worst <= data.tolerance;
  byId("check").dataset.state = good ? "good" : "bad";
  byId("check").textContent =
    `Self-check: on ${data.checks.length} prompts this page ${good ? "agrees" : "does NOT agree"} with the float64 ` +
    `forward pass it was made with: the largest difference is ${worst.toExponential(1)}.`;
})();

// The picture of an error report, to look behind: cells of a matrix or points, by mouse and by keyboard.
// widgets/picker.py sends what is to be drawn and answers a choice with the rows, as HTML.

const make = (tag, attributes = {}, ...inside) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...inside);
  return node;
};

const svg = (tag, attributes = {}, ...inside) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...inside);
  return node;
};

const count = value => value.toLocaleString("en");

const ink = share => {      // a blue that is darker for a larger share, and the text that is read on it
  const color = [8, 69, 148].map(part => Math.round(255 + (part - 255) * share));
  const light = color.map(part => part / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const luminance = 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2];
  return `background:rgb(${color});color:${luminance > 0.179 ? "#000" : "#fff"}`;
};

// A notebook takes the focus to itself at a click; the arrow keys shall go on from here.
const keepFocus = node => requestAnimationFrame(() => node.focus({preventScroll: true}));

function matrix(model, choose) {
  const {rows, columns, counts, shares, across, down} = model.get("cells");
  const buttons = counts.map((line, i) => line.map((value, j) => {
    const words = `${down} ${rows[i]}, ${across} ${columns[j]}: ${count(value)} rows, ${Math.round(100 * shares[i][j])} %`;
    const button = make("button", {type: "button", style: ink(shares[i][j]), "aria-label": words, title: words,
                                   "aria-pressed": "false", tabindex: i || j ? -1 : 0},
                        make("b", {}, count(value)), make("small", {}, value ? `${Math.round(100 * shares[i][j])}%` : " "));
    button.addEventListener("click", () => {
      buttons.flat().forEach(other => other.setAttribute("aria-pressed", String(other === button)));
      take(i, j);
      choose({cell: [i, j]});
      keepFocus(button);
    });
    return button;
  }));
  const take = (i, j) => {      // Tab comes to one cell, the arrow keys go on from it
    for (const button of buttons.flat()) button.tabIndex = -1;
    buttons[i][j].tabIndex = 0;
  };
  const press = event => {
    const i = buttons.findIndex(line => line.includes(event.target)), j = buttons[i]?.indexOf(event.target);
    if (i >= 0 && ["Enter", " "].includes(event.key)) { event.target.click(); return true; }
    const step = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]}[event.key];
    if (i < 0 || !step) return false;
    const to = buttons[i + step[0]]?.[j + step[1]];
    if (to) { take(i + step[0], j + step[1]); to.focus(); }
    return true;
  };
  const head = make("tr", {}, make("td", {class: "mlx-bert-corner"}, `${down} ↓`), ...columns.map(name => make("th", {scope: "col"}, name)));
  const body = buttons.map((line, i) => make("tr", {}, make("th", {scope: "row"}, rows[i]),
                                             ...line.map(button => make("td", {}, button))));
  const crown = make("tr", {}, make("td"), make("td", {colspan: columns.length, class: "mlx-bert-axis"}, `${across} →`));
  const table = make("table", {}, make("thead", {}, crown, head), make("tbody", {}, ...body));
  return {press, node: make("div", {class: "mlx-bert-matrix"}, table)};
}

const ticks = (low, high) => {
  const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(factor => factor * power).find(size => size >= rough);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) found.push(Number((i * step).toPrecision(12)));
  return found;
};

const short = value => Math.abs(value) >= 1e4 ? `${Number((value / 1e3).toPrecision(3))}k` : `${value}`;

function scatter(model, choose) {
  const view = model.get("points"), width = 440, height = 330, [left, right, top, bottom] = [52, 10, 10, 38];
  const values = new Float64Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
  const n = values.length / 2, x = values.subarray(0, n), y = values.subarray(n);   // the largest error first
  const span = all => {
    const low = all.reduce((a, b) => Math.min(a, b)), high = all.reduce((a, b) => Math.max(a, b));
    const room = 0.05 * (high - low) || 0.5;
    return [low - room, high + room];
  };
  const [x0, x1] = span(x), [y0, y1] = span(y);
  const across = value => left + (width - left - right) * (value - x0) / (x1 - x0);
  const up = value => height - bottom - (height - top - bottom) * (value - y0) / (y1 - y0);
  const parts = [];
  for (const at of ticks(x0, x1))
    parts.push(svg("line", {x1: across(at), x2: across(at), y1: top, y2: height - bottom, class: "mlx-bert-line"}),
               svg("text", {x: across(at), y: height - bottom + 14, "text-anchor": "middle"}, short(at)));
  for (const at of ticks(y0, y1))
    parts.push(svg("line", {x1: left, x2: width - right, y1: up(at), y2: up(at), class: "mlx-bert-line"}),
               svg("text", {x: left - 5, y: up(at) + 4, "text-anchor": "end"}, short(at)));
  if (y0 < 0 && y1 > 0)
    parts.push(svg("line", {x1: left, x2: width - right, y1: up(0), y2: up(0), stroke: "#D55E00", "stroke-dasharray": "5 4"}));
  parts.push(svg("text", {x: (left + width - right) / 2, y: height - 5, "text-anchor": "middle"}, "predicted"),
             svg("text", {transform: `translate(12 ${(top + height - bottom) / 2}) rotate(-90)`, "text-anchor": "middle"},
                 "error (predicted − true)"));
  const strength = Math.min(0.8, Math.max(0.15, 300 / n));
  for (let i = n - 1; i >= 0; i--)
    parts.push(svg("circle", {cx: across(x[i]).toFixed(1), cy: up(y[i]).toFixed(1), r: 3.2, fill: "#2F86D0",
                              "fill-opacity": strength}));
  const ring = svg("circle", {r: 7, fill: "none", stroke: "#D55E00", "stroke-width": 2.5, visibility: "hidden"});
  const picture = svg("svg", {viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true"}, ...parts, ring);
  const root = make("div", {class: "mlx-bert-scatter", tabindex: 0, role: "slider", "aria-label": "rows, the largest error first",
                            "aria-valuemin": 1, "aria-valuemax": n, "aria-valuenow": 1}, picture);
  let at = -1;
  const show = (i, chosen) => {
    at = i;
    ring.setAttribute("cx", across(x[i]));
    ring.setAttribute("cy", up(y[i]));
    ring.setAttribute("visibility", "visible");
    root.setAttribute("aria-valuenow", i + 1);
    const [predicted, error] = [x[i], y[i]].map(value => short(Number(value.toPrecision(4))));
    root.setAttribute("aria-valuetext", `predicted ${predicted}, error ${error}`);
    choose({points: chosen});
  };
  root.addEventListener("click", event => {
    const box = picture.getBoundingClientRect(), scale = width / box.width;
    const px = (event.clientX - box.left) * scale, py = (event.clientY - box.top) * scale;
    const near = Array.from(x, (_, i) => [Math.hypot(across(x[i]) - px, up(y[i]) - py), i])
      .filter(([far]) => far < 12).sort((a, b) => a[0] - b[0]).slice(0, 20).map(([, i]) => i);
    if (near.length) show(near[0], near);
    keepFocus(root);
  });
  const press = event => {
    const next = Math.min(at + 1, n - 1), before = Math.max(at - 1, 0);
    const to = {ArrowRight: next, ArrowDown: next, ArrowLeft: before, ArrowUp: before, Home: 0, End: n - 1,
                Enter: Math.max(at, 0)}[event.key];
    if (to !== undefined) show(to, [to]);
    return to !== undefined;
  };
  return {press, node: root};
}

export default {
  render({model, el}) {
    const words = make("div", {class: "mlx-bert-rows", role: "status"});
    const choose = choice => model.send(choice);
    const drawn = model.get("points").byteLength ? scatter(model, choose) : matrix(model, choose);
    const beside = model.get("beside");
    const picture = beside ? [make("img", {src: beside, alt: model.get("words")})] : [];
    const root = make("div", {class: "mlx-bert-picker", role: "group", "aria-label": model.get("label")},
                      make("p", {class: "mlx-bert-hint"}, make("b", {}, model.get("title")), ` ${model.get("hint")}`),
                      make("div", {class: "mlx-bert-pictures"}, drawn.node, ...picture), words);
    el.append(root);
    const answer = () => { words.innerHTML = model.get("rows"); };      // escaped where it was made
    model.on("change:rows", answer);
    answer();
    const press = event => {    // before the shortcuts of the notebook, which has some for the arrow keys and Enter
      if (!drawn.node.contains(event.target) || !drawn.press(event)) return;
      event.preventDefault();
      event.stopImmediatePropagation();
    };
    window.addEventListener("keydown", press, true);
    return () => { model.off("change:rows", answer); window.removeEventListener("keydown", press, true); };
  },
};

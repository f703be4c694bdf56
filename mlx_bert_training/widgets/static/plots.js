// The charts of a run: a value under the pointer, zoom, a logarithmic scale, smoothing, a choice of metric.
// `uPlot` (uPlot.iife.min.js) stands before this text in the same module; widgets/plots.py sends the data.

const make = (tag, attributes = {}, ...inside) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...inside);
  return node;
};

const padded = text => text.replace(/e([+-])(\d)$/, (_, sign, digit) => `e${sign}0${digit}`);     // as Python does

const short = value => {        // three digits, without zeros at the end
  const power = value ? Math.floor(Math.log10(Math.abs(value))) : 0;
  if (power >= -4 && power < 6) return String(Number(value.toPrecision(3)));
  return padded(value.toExponential(2).replace(/\.?0+e/, "e"));
};

const number = (value, form) => {       // as the figures above the charts are written
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (form === "short") return short(value);
  if (form === "whole" || size >= 1e4) return Math.round(value).toLocaleString("en");
  return size > 0 && size < 1e-3 ? padded(value.toExponential(2)) : value.toFixed(4);
};

const distinct = values => {    // all written in one way, with as few digits as say where the ticks are
  const sizes = values.filter(Boolean).map(Math.abs), top = Math.max(...sizes), least = Math.min(...sizes);
  const gap = Math.min(...values.slice(1).map((value, i) => Math.abs(value - values[i])), top);
  const one = sizes.length && top >= 1e-3 && top < 1e6 && top <= 1e4 * least;
  const odd = value => value && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6);
  for (let digits = 0; digits < 9; digits++) {
    const form = {minimumFractionDigits: digits, maximumFractionDigits: digits};
    const alone = value => odd(value) ? value.toExponential(digits).replace("e+", "e") : String(Number(value.toPrecision(6)));
    const texts = values.map(value => one ? value.toLocaleString("en", form) : alone(value));
    if (values.every((value, i) => Math.abs(Number(texts[i].replaceAll(",", "")) - value) <= 0.01 * gap)) return texts;
  }
  return values.map(String);
};

const smoothed = (x, y, share) => {     // an exponential mean over updates, corrected for its start
  let mean = 0, weight = 0, before = x.length ? x[0] - 1 : 0;
  return y.map((value, i) => {
    const keep = share ** (x[i] - before);
    before = x[i];
    mean = keep * mean + (1 - keep) * value;
    weight = keep * weight + 1 - keep;
    return mean / weight;
  });
};

const logTicks = (low, high) => {
  const found = factors => {
    const places = [];
    for (let power = Math.floor(low); power <= Math.ceil(high); power++)
      for (const factor of factors) places.push(power + Math.log10(factor));
    return places.filter(place => place >= low && place <= high);
  };
  if (high - low < 0.5) {       // round numbers in between
    const least = 10 ** low, most = 10 ** high, rough = (most - least) / 4, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map(factor => factor * power).find(size => size >= rough), ticks = [];
    for (let i = Math.max(1, Math.ceil(least / step)); i * step <= most; i++) ticks.push(Math.log10(i * step));
    return ticks;
  }
  for (const factors of [[1, 2, 5], [1, 3], [1]]) if (found(factors).length <= 6) return found(factors);
  return found([1]).filter((_, i, all) => i % Math.ceil(all.length / 6) === 0);
};

const SIGN = {faint: "·", line: "—", points: "●"};

class Plot {
  // One chart. `panel` has what is common to all: zoom, scale, smoothing.
  constructor(panel, chart) {
    this.panel = panel;
    this.readout = make("div", {class: "mlx-bert-readout"});
    this.canvas = make("div", {class: "mlx-bert-canvas"});
    this.nothing = make("div", {class: "mlx-bert-empty"});
    this.root = make("div", {class: `mlx-bert-plot mlx-bert-${chart.size}`, role: "img"}, this.readout, this.canvas, this.nothing);
    this.update(chart);
  }

  get log() { return this.chart.log || (this.panel.log && this.chart.lines.some(line => line.smooth)); }

  data() {
    const tables = this.chart.lines.map(line => {
      const {x, y} = this.panel.points(line);
      const shown = line.smooth ? smoothed(x, y, this.panel.share) : y;
      return [x, this.log ? shown.map(value => value > 0 ? Math.log10(value) : null) : shown];
    }).filter(([x]) => x.length);
    return tables.length ? uPlot.join(tables) : [[], ...this.chart.lines.map(() => [])];
  }

  update(chart) {
    this.chart = chart;
    chart.lines = chart.lines.filter(line => line.count);
    this.root.setAttribute("aria-label", chart.label);
    const form = JSON.stringify([chart.title, chart.lines.map(line => [line.name, line.count === 1]), this.log]);
    if (form !== this.form) this.build(form);
    else this.plot.setData(this.data());
    this.nothing.textContent = chart.lines.length ? "" : chart.empty;
    this.read();
  }

  range(low, high) {    // of y: spikes of the single losses do not count
    const cut = [];
    this.chart.lines.forEach((line, i) => {
      let values = (this.plot?.data ?? this.present)[i + 1].filter(Number.isFinite);
      if (line.style === "faint" && values.length > 20) {
        values = values.sort((a, b) => a - b).slice(Math.floor(values.length / 100), Math.ceil(values.length * 0.99));
      }
      if (values.length) cut.push(Math.min(...values), Math.max(...values));
    });
    if (cut.length) [low, high] = [Math.min(...cut), Math.max(...cut)];
    if (!Number.isFinite(low) || !Number.isFinite(high)) return [0, 1];
    const room = 0.06 * (high - low) || 0.1 * Math.abs(high) || 0.5;
    return [low - room, high + room];
  }

  build(form) {
    this.form = form;
    this.plot?.destroy();
    this.plot = null;
    this.canvas.textContent = "";
    this.present = this.data();
    const color = () => getComputedStyle(this.root).color;
    const axis = {stroke: color, font: "11px system-ui,sans-serif", ticks: {show: false}, grid: {stroke: "rgba(128,128,128,.25)", width: 1}};
    this.plot = new uPlot({
      width: this.panel.width(this), height: this.chart.height, legend: {show: false}, padding: [8, 12, 0, 0],
      cursor: {sync: {key: this.panel.key}, drag: {x: true, y: false}, points: {size: 7}},
      scales: {x: {time: false, range: () => this.panel.zoom ?? [0, this.chart.extent]},
               y: {range: (_, low, high) => this.range(low, high)}},
      axes: [{...axis, size: 24, space: 60, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5],
              values: (_, values) => values.map(value => value >= 1e4 ? `${value / 1e3}k` : `${value}`)},
             {...axis, size: 56, space: 28, ...(this.log ? {splits: (u, _, low, high) => logTicks(low, high)} : {}),
              values: (_, values) => this.chart.lines.length ? distinct(this.log ? values.map(value => 10 ** value) : values) : []}],
      series: [{}, ...this.chart.lines.map(line => ({
        label: line.name, stroke: line.color, spanGaps: true, alpha: line.style === "faint" ? 0.4 : 1,
        width: line.style === "line" ? 2 : 1.2, dash: line.style === "points" ? [5, 4] : undefined,
        points: {show: line.style === "points" || line.count === 1, size: 6, fill: line.color}}))],
      hooks: {setCursor: [() => this.read()], draw: [u => this.mark(u)], setSelect: [u => this.select(u)]},
    }, this.present, this.canvas);
    this.plot.over.addEventListener("dblclick", () => this.panel.zoomTo(null));
  }

  select(u) {
    if (u.select.width < 4) return;
    this.panel.zoomTo([u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")]);
  }

  mark(u) {     // what was done by hand, and a ring around the best
    const {ctx, bbox} = u;
    ctx.save();
    ctx.strokeStyle = getComputedStyle(this.root).color;
    ctx.lineWidth = 1;
    ctx.setLineDash([2, 4]);
    for (const [at] of this.chart.marks) {
      const x = u.valToPos(at, "x", true);
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.beginPath(); ctx.moveTo(x, bbox.top); ctx.lineTo(x, bbox.top + bbox.height); ctx.stroke();
    }
    ctx.setLineDash([]);
    this.chart.lines.forEach((line, i) => {
      const at = line.best === null ? -1 : u.data[0].indexOf(line.best);
      const value = at < 0 ? null : u.data[i + 1][at];
      if (value === null || value === undefined) return;
      ctx.strokeStyle = line.color;
      ctx.lineWidth = 2 * devicePixelRatio;
      ctx.beginPath();
      ctx.arc(u.valToPos(line.best, "x", true), u.valToPos(value, "y", true), 7 * devicePixelRatio, 0, 2 * Math.PI);
      ctx.stroke();
    });
    ctx.restore();
  }

  read() {      // the values under the pointer, or the newest ones
    if (!this.plot) return;
    const {idx} = this.plot.cursor, data = this.plot.data, parts = [make("b", {}, this.chart.title)];
    const at = idx ?? data[0].length - 1;
    this.chart.lines.forEach((line, i) => {
      let place = at;
      while (place >= 0 && !Number.isFinite(data[i + 1]?.[place])) place--;
      let value = place < 0 ? null : data[i + 1][place];
      if (this.log && value !== null) value = 10 ** value;
      const name = this.chart.lines.length > 1 ? ` ${line.name} ` : " ";
      parts.push(make("span", {}, make("i", {style: `color:${line.color}`}, SIGN[line.style]), `${name}${number(value, this.chart.form)}`));
    });
    if (idx !== null && idx !== undefined) {
      parts.splice(1, 0, make("span", {class: "mlx-bert-at"}, `update ${Math.round(data[0][idx]).toLocaleString("en")}`));
      const near = this.chart.marks.find(([x]) => Math.abs(this.plot.valToPos(x, "x") - this.plot.cursor.left) < 5);
      if (near) parts.push(make("span", {}, near[1]));
    }
    this.readout.replaceChildren(...parts);
  }
}

class Panel {
  constructor(model, root) {
    this.model = model;
    this.key = `mlx-bert-${Math.random()}`;
    this.plots = new Map();
    this.zoom = null;
    this.log = false;
    this.share = model.get("smoothing");
    this.metric = null;
    this.choice = make("select", {"aria-label": "Metric"});
    const smooth = make("input", {type: "range", min: 0, max: 0.99, step: 0.01, value: this.share, "aria-label": "Smoothing"});
    const log = make("input", {type: "checkbox"});
    this.whole = make("button", {type: "button", disabled: ""}, "Whole run");
    this.bar = make("div", {class: "mlx-bert-tools"}, make("label", {}, "Metric ", this.choice),
                    make("label", {}, "Smoothing ", smooth), make("label", {}, log, " Log scale"), this.whole,
                    make("span", {class: "mlx-bert-hint"}, "drag to zoom"));
    this.rows = {large: make("div", {class: "mlx-bert-grid"}), small: make("div", {class: "mlx-bert-grid"})};
    this.root = make("div", {class: "mlx-bert-plots"}, this.bar, this.rows.large, this.rows.small);
    root.append(this.root);
    smooth.addEventListener("input", () => { this.share = Number(smooth.value); this.update(); });
    log.addEventListener("change", () => { this.log = log.checked; this.update(); });
    this.choice.addEventListener("change", () => { this.metric = this.choice.value; this.update(); });
    this.whole.addEventListener("click", () => this.zoomTo(null));
    this.sized = new ResizeObserver(() => this.resize());
    this.sized.observe(this.root);
    this.themed = new MutationObserver(() => this.plots.forEach(({plot}) => plot.redraw()));
    this.themed.observe(document.body, {attributes: true});
  }

  points(line) {
    const view = this.model.get("points");
    const values = new Float64Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
    return {x: Array.from(values.subarray(line.at, line.at + line.count)),
            y: Array.from(values.subarray(line.at + line.count, line.at + 2 * line.count))};
  }

  width(plot) { return Math.max(120, plot.root.clientWidth || 300); }

  zoomTo(range) {
    this.zoom = range;
    this.whole.disabled = range === null;
    for (const {plot} of this.plots.values()) {
      plot.setSelect({left: 0, width: 0, top: 0, height: 0}, false);
      plot.setData(plot.data);
    }
  }

  resize() {
    for (const plot of this.plots.values()) {
      const width = this.width(plot);
      if (plot.plot && Math.abs(plot.plot.width - width) > 1) plot.plot.setSize({width, height: plot.chart.height});
    }
  }

  update() {
    const charts = structuredClone(this.model.get("charts"));
    const metrics = charts.filter(chart => chart.group).map(chart => chart.title);
    if (!metrics.includes(this.metric)) this.metric = metrics[0] ?? null;
    if (String([...this.choice.options].map(option => option.value)) !== String(metrics))
      this.choice.replaceChildren(...metrics.map(name => make("option", {value: name}, name)));
    this.choice.value = this.metric;
    this.choice.parentElement.hidden = metrics.length < 2;
    const shown = charts.filter(chart => !chart.group || chart.title === this.metric);
    shown.forEach((chart, i) => {
      const place = chart.group || chart.title;
      if (!this.plots.has(place)) {
        const holder = make("div", {class: `mlx-bert-place mlx-bert-${chart.size}`});
        this.rows[chart.size === "small" ? "small" : "large"].append(holder);
        const plot = new Plot(this, chart);
        holder.append(plot.root);
        this.plots.set(place, plot);
      } else this.plots.get(place).update(chart);
    });
    this.resize();
  }

  close() {
    this.sized.disconnect();
    this.themed.disconnect();
    for (const {plot} of this.plots.values()) plot?.destroy();
  }
}

export default {
  render({model, el}) {
    const panel = new Panel(model, el);
    const update = () => panel.update();
    const end = () => {         // the widgets go: the focus stays where they were
      const area = el.closest(".jp-Cell-outputArea, .jp-OutputArea");
      if (!model.get("ended") || !area?.contains(document.activeElement)) return;
      area.tabIndex = -1;
      area.style.outline = "none";
      area.focus({preventScroll: true});
    };
    model.on("change:points", update);
    model.on("change:ended", end);
    update();
    model.send({ready: true});
    return () => { model.off("change:points", update); model.off("change:ended", end); panel.close(); };
  },
};

"use strict";
// Fills the page: unpacks the tables, draws the charts, keeps the controls, sorts the table.
(async () => {
  const content = JSON.parse(document.getElementById("content").textContent);
  const choice = {
    baseline: content.baselines[0] ?? null,
    currency: Object.keys(content.currencies)[0] ?? null,
    checkpoint: content.steps.length - 1,
    run: content.charts.find((chart) => chart.chosen)?.run ?? null,
  };
  const order = { column: "value", ascending: false };
  const tables = {};
  let views = [];
  // What happens in the page, for whoever drives it from outside.
  window.circuitEcon = { choice, order, ready: false, views: () => views };

  // ---- tables ------------------------------------------------------------------------------

  const ARRAYS = { text: Uint32Array, integer: Float64Array, float: Float32Array };

  async function unpackColumn(column) {
    const bytes = Uint8Array.from(atob(column.data), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const codes = new ARRAYS[column.type](await new Response(stream).arrayBuffer());
    if (column.type === "text") return Array.from(codes, (code) => column.words[code] ?? null);
    return Array.from(codes, (number) => (Number.isNaN(number) ? null : number));
  }

  async function unpack(table) {
    const names = Object.keys(table.columns);
    const columns = await Promise.all(names.map((name) => unpackColumn(table.columns[name])));
    return Array.from({ length: table.height }, (_, row) =>
      Object.fromEntries(names.map((name, i) => [name, columns[i][row]])));
  }

  // ---- numbers (the same rules as plus_minus and amount in words.py) ---------------------------

  const finite = (x) => x !== null && x !== undefined && Number.isFinite(x);
  const digits = (x, places) => x
    .toLocaleString("en-US", { minimumFractionDigits: places, maximumFractionDigits: places })
    .replace("-", "−");

  function plusMinus(value, se) {
    if (!finite(value)) return "–";
    const known = finite(se);
    let error = known ? se : 0;
    const size = Math.max(Math.abs(value), error);
    let exponent = size ? Math.floor(Math.log10(size)) : 0;
    if (exponent >= -3 && exponent <= 5) exponent = 0;
    const scaled = value / 10 ** exponent;
    error /= 10 ** exponent;
    const leading = error > 0 ? error : Math.abs(scaled) / 10;
    const places = leading > 0 ? Math.max(0, Math.min(6, 1 - Math.floor(Math.log10(leading)))) : 0;
    let text = digits(scaled, places) + (known ? ` ± ${digits(error, places)}` : "");
    if (exponent) {
      const power = "×10" + String(exponent).replace(/[-\d]/g, (c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]);
      text = known ? `(${text})${power}` : text + power;
    }
    return known ? text : `${text} (no se)`;
  }

  function amount(number) {
    if (!finite(number)) return "–";
    if (Number.isInteger(number)) return digits(number, 0);
    if (Math.abs(number) >= 1e4) return digits(number, 0);
    return String(Number(number.toPrecision(4))).replace("-", "−");
  }

  // ---- charts --------------------------------------------------------------------------------

  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  // Rows are copied for each chart: Vega writes into the rows it is given.
  function rows(name) {
    const [table, ...run] = name.split("/");
    const wanted = run.join("/");
    const picked = wanted ? tables[table].filter((row) => row.run === wanted) : tables[table];
    return picked.map((row) => ({ ...row }));
  }

  // Panels side by side and one below the other do not follow the page's width by themselves.
  function fit(spec, width) {
    if (spec.facet) {
      spec.columns = Math.max(1, Math.min(spec.columns, Math.floor(width / 240)));
      spec.spec.width = Math.floor((width - 10) / spec.columns) - 56;
    }
    for (const panel of spec.vconcat ?? []) panel.width = Math.max(160, width - 170);
  }

  // Charts of the run that is not chosen are not drawn; their place in the list stays.
  const hidden = (chart) => chart.chosen && chart.run !== choice.run;

  async function draw({ element, data, spec: original }) {
    const holder = document.getElementById(element);
    const spec = structuredClone(original);
    spec.datasets = Object.fromEntries(data.map((name) => [name, rows(name)]));
    for (const param of spec.params ?? []) {
      if (param.name in choice) { // the page has controls of its own for these
        delete param.bind;
        param.value = choice[param.name];
      }
    }
    const style = getComputedStyle(holder.parentElement);
    const width = holder.parentElement.clientWidth - parseFloat(style.paddingLeft) - 40;
    fit(spec, width);
    const theme = structuredClone(content.themes[dark.matches ? "dark" : "light"]);
    if (width < 500) { // legends stand below each other, or they would be cut off
      Object.assign(theme.legend, { columns: 1, layout: { top: { direction: "vertical" } } });
    }
    const result = await vegaEmbed(holder, spec, {
      mode: "vega-lite",
      renderer: "canvas",
      config: { ...theme, background: "transparent" },
      actions: { export: true, source: false, compiled: false, editor: false },
      tooltip: { theme: dark.matches ? "dark" : "light" },
    });
    return result.view;
  }

  async function drawAll() {
    for (const view of views) view?.finalize();
    views = [];
    for (const part of document.querySelectorAll(".of-run")) {
      part.hidden = part.dataset.run !== choice.run;
    }
    for (const chart of content.charts) views.push(hidden(chart) ? null : await draw(chart));
  }

  async function tell(name) {
    await Promise.all(views.map((view, i) => {
      const known = (content.charts[i].spec.params ?? []).some((param) => param.name === name);
      return known && view ? view.signal(name, choice[name]).runAsync() : null;
    }));
  }

  // ---- controls ------------------------------------------------------------------------------

  function element(tag, properties = {}, ...children) {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  }

  function select(name, options) {
    const box = element("select", { id: `choose-${name}` },
      ...options.map(([value, text]) => element("option", { value }, text)));
    box.addEventListener("change", () => { choice[name] = box.value; changed(name); });
    return element("label", {}, name, box);
  }

  function slider() {
    const last = content.steps.length - 1;
    const shown = element("output");
    const range = element("input",
      { id: "choose-checkpoint", type: "range", min: 0, max: last, step: 1, value: last });
    range.value = last;
    const show = () => {
      const step = content.steps[choice.checkpoint].toLocaleString("en-US");
      shown.value = `step ${step} (${choice.checkpoint + 1} of ${last + 1})`;
      range.setAttribute("aria-valuetext", shown.value);
    };
    range.addEventListener("input", () => {
      choice.checkpoint = Number(range.value);
      show();
      changed("checkpoint");
    });
    show();
    return element("label", {}, "checkpoint", range, shown);
  }

  function buildControls() {
    const bar = document.getElementById("controls");
    if (content.steps.length > 1) bar.append(slider());
    if (content.baselines.length > 1) bar.append(select("baseline", content.baselines.map((b) => [b, b])));
    const currencies = Object.entries(content.currencies);
    if (currencies.length > 1) bar.append(select("currency", currencies));
    const runs = [...new Set(content.charts.filter((c) => c.chosen).map((c) => c.run))];
    if (runs.length > 1) bar.append(select("run", runs.map((run) => [run, run])));
    bar.hidden = !bar.children.length;
  }

  async function changed(name) {
    if (name === "run") return drawAll();
    fillTable();
    return tell(name);
  }

  // ---- the sortable table ----------------------------------------------------------------------

  const several = content.runs.length > 1;
  const COLUMNS = [
    ...(several ? [{ key: "run", title: "run", text: (r) => r.run }] : []),
    { key: "component", title: "component", text: (r) => r.component, sort: (r) => r.position },
    { key: "kind", title: "kind", text: (r) => r.kind },
    { key: "value", title: "value ± se (nats)", number: true, text: (r) => plusMinus(r.value, r.se) },
    { key: "placebo", title: "placebo ± se", number: true, text: (r) => plusMinus(r.placebo, r.placebo_se) },
    { key: "capacity", title: "capacity", number: true, text: (r) => amount(r.capacity) },
    { key: "return", title: "return ± se (nats per unit)", number: true, text: (r) => plusMinus(r.return, r.return_se) },
    ...(content.baselines.length > 1
      ? [{ key: "verdict", title: "verdict", text: (r) => r.verdict ?? "–" }] : []),
  ];

  function buildTable() {
    const head = document.querySelector("#accounts thead");
    if (!head) return;
    head.append(element("tr", {}, ...COLUMNS.map((column) => {
      const button = element("button", { type: "button" }, column.title);
      button.addEventListener("click", () => {
        // Numbers are wanted largest first, names from a to z.
        order.ascending = order.column === column.key ? !order.ascending : !column.number;
        order.column = column.key;
        fillTable();
      });
      const cell = element("th", { scope: "col", className: column.number ? "number" : "" }, button);
      cell.dataset.key = column.key;
      return cell;
    })));
    document.getElementById("filter").addEventListener("input", fillTable);
  }

  function tableRows() {
    const step = content.steps[choice.checkpoint];
    const wanted = document.getElementById("filter").value.trim().toLowerCase();
    return tables.accounts
      .filter((row) => row.step === step && [choice.baseline, null].includes(row.baseline))
      .map((row, position) => {
        const capacity = choice.currency === null ? null : row[choice.currency];
        const divisible = finite(capacity) && capacity !== 0;
        return {
          ...row, position, capacity,
          return: divisible && finite(row.value) ? row.value / capacity : null,
          return_se: divisible && finite(row.se) ? row.se / Math.abs(capacity) : null,
        };
      })
      .filter((row) => `${row.component} ${row.kind} ${several ? row.run : ""}`.toLowerCase().includes(wanted));
  }

  function sorted(list) {
    const column = COLUMNS.find((c) => c.key === order.column);
    const key = column.sort ?? ((row) => row[column.key]);
    const sign = order.ascending ? 1 : -1;
    return list.sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      // What is not known comes last whichever way the table is sorted.
      if ((x ?? null) === null || (y ?? null) === null) return ((x ?? null) === null) - ((y ?? null) === null);
      return sign * (typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y);
    });
  }

  function fillTable() {
    const body = document.querySelector("#accounts tbody");
    if (!body) return;
    const list = sorted(tableRows());
    const largest = Math.max(...list.map((row) => Math.abs(row.value ?? 0)), 0);
    body.replaceChildren(...list.map((row) => element("tr", {}, ...COLUMNS.map((column) => {
      const cell = element("td", { className: column.number ? "number" : "" }, column.text(row));
      if (column.key === "value" && largest > 0 && finite(row.value)) {
        const share = (100 * Math.abs(row.value)) / largest;
        const colour = row.value < 0 ? "var(--loss)" : "var(--bar)";
        cell.style.backgroundImage = `linear-gradient(to left, ${colour} ${share}%, transparent ${share}%)`;
      }
      if (row[column.key] === "contested") cell.classList.add("contested");
      return cell;
    }))));
    for (const cell of document.querySelectorAll("#accounts th")) {
      if (cell.dataset.key !== order.column) cell.removeAttribute("aria-sort");
      else cell.setAttribute("aria-sort", order.ascending ? "ascending" : "descending");
    }
    const facts = [`step ${content.steps[choice.checkpoint].toLocaleString("en-US")}`];
    if (choice.baseline !== null) facts.push(`baseline ${choice.baseline}`);
    if (choice.currency !== null) facts.push(`capacity in ${content.currencies[choice.currency]}`);
    document.getElementById("caption").textContent = facts.join(" · ");
  }

  // ---- start -----------------------------------------------------------------------------------

  try {
    for (const [name, table] of Object.entries(content.tables)) tables[name] = await unpack(table);
    buildControls();
    buildTable();
    fillTable();
    await drawAll();
    dark.addEventListener("change", drawAll);
    let width = window.innerWidth;
    let waiting = null;
    window.addEventListener("resize", () => {
      if (window.innerWidth === width) return;
      width = window.innerWidth;
      clearTimeout(waiting);
      waiting = setTimeout(drawAll, 200);
    });
    window.circuitEcon.ready = true;
  } catch (error) {
    const notice = document.getElementById("failure");
    notice.hidden = false;
    notice.textContent = `The charts could not be drawn in this browser: ${error.message}`;
    throw error;
  }
})();

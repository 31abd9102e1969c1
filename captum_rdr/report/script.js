"use strict";
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const byId = (id) => document.getElementById(id);

// Filters and order: each control stands for the data of its key in a list's articles.
all("form.filters").forEach((form) => {
  const articles = all("article", byId(form.dataset.list)), count = form.querySelector("[role=status]");
  const ids = new Set(articles.map((one) => one.id));
  const others = all("[data-for]").filter((one) => ids.has(one.dataset.for));
  const sort = form.querySelector("[data-key=sort]");
  const controls = all("[data-key]", form).filter((one) => one !== sort);
  const fits = (article) => controls.every((one) => {
    const wanted = one.value.trim(), key = one.dataset.key, own = article.dataset;
    if (!wanted) return true;
    if (one.type === "search") return own.text.toLowerCase().includes(wanted.toLowerCase());
    if (one.type === "number") return +own[key] >= +wanted;
    return own[key] === wanted || own[key].trim().split(" ").includes(wanted);
  });
  const compared = (a, b, key, sign) => {
    const [x, y] = [a.dataset[key], b.dataset[key]];
    if (x === y) return 0;
    if (x === "" || y === "") return x === "" ? 1 : -1; // what is unknown comes last
    return sign * (isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y);
  };
  let order = "";
  const apply = () => {
    const shown = new Set(articles.filter(fits).map((one) => one.id));
    articles.forEach((one) => { one.hidden = !shown.has(one.id); });
    others.forEach((one) => {
      const out = !shown.has(one.dataset.for);
      if (one.tagName === "TR") one.hidden = out;
      else one.classList.toggle("out", out);
    });
    count.textContent = `${shown.size} of ${articles.length} ${count.dataset.unit} shown`;
    if (sort && sort.value !== order && articles.length) {
      order = sort.value;
      const key = order.replace("-", "") || "order", sign = order.startsWith("-") ? -1 : 1;
      const sorted = articles.slice().sort((a, b) =>
        compared(a, b, key, sign) || a.dataset.order - b.dataset.order);
      articles[0].parentNode.append(...sorted);
    }
  };
  for (const kind of ["input", "change"]) form.addEventListener(kind, apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => { apply(); veil(); }));
  apply(); // a browser may have kept what was chosen before a reload
  // A link to a card that the filters hide shows it.
  addEventListener("hashchange", () => {
    const wanted = byId(decodeURIComponent(location.hash.slice(1)));
    if (wanted && wanted.hidden && ids.has(wanted.id)) {
      form.reset();
      setTimeout(() => wanted.scrollIntoView(), 50);
    }
  });
});

// One switch, wherever it stands, shows where in all pictures things lie.
const veil = (from) => {
  const boxes = all("input.veils"), on = from ? from.checked : boxes.some((one) => one.checked);
  boxes.forEach((one) => { one.checked = on; });
  document.body.classList.toggle("veiled", on);
};
all("input.veils").forEach((one) => one.addEventListener("change", () => veil(one)));
veil();

// The map: concepts that overlap lie near each other (principal coordinates of one minus the
// overlap); then they push each other apart until none lies upon another.
(() => {
  const map = byId("map");
  if (!map) return;
  const overlap = JSON.parse(map.dataset.overlap), bubbles = all("a", map), n = bubbles.length;
  const {width, height} = map.viewBox.baseVal, radii = all("circle", map).map((one) => +one.getAttribute("r"));
  const dot = (a, b) => a.reduce((sum, one, i) => sum + one * b[i], 0);
  const mean = (values) => values.reduce((sum, one) => sum + one, 0) / n;
  const squares = overlap.map((row) => row.map((one) => (1 - one) ** 2)), means = squares.map(mean);
  const inner = squares.map((row, i) => row.map((one, j) => (means[i] + means[j] - mean(means) - one) / 2));
  const units = [];
  const axes = [0, 1].map((which) => { // the first two axes, by power iteration
    let unit = radii.map((_, i) => Math.sin(1 + i * (2.4 + which))), size = 0;
    for (let step = 0; step < 200; step += 1) {
      let next = inner.map((row) => dot(row, unit));
      for (const one of units) { const part = dot(next, one); next = next.map((x, i) => x - part * one[i]); }
      size = Math.sqrt(dot(next, next));
      if (size < 1e-9) break;
      unit = next.map((x) => x / size);
    }
    units.push(unit);
    return unit.map((x) => x * Math.sqrt(size));
  });
  const largest = Math.max(1e-9, ...axes.flat().map(Math.abs));
  const points = radii.map((_, i) => [width, height].map((side, which) =>
    axes[which][i] / largest * 0.35 * side + 10 * Math.cos(2.4 * i - 1.57 * which))); // no two are the same
  for (let step = 0; step < 400; step += 1) {
    const moves = points.map(() => [0, 0]);
    for (let i = 0; i < n; i += 1) for (let j = 0; j < n; j += 1) {
      const apart = [0, 1].map((which) => points[i][which] - points[j][which]);
      const far = Math.max(Math.hypot(...apart), 1e-9), push = radii[i] + radii[j] + 12 - far;
      if (i !== j && push > 0) apart.forEach((one, which) => { moves[i][which] += one * push / far / 2; });
    }
    points.forEach((point, i) => [width, height].forEach((side, which) => {
      const room = side / 2 - radii[i];
      point[which] = Math.min(Math.max(point[which] + moves[i][which], -room), room);
    }));
  }
  const places = points.map(([x, y]) => [x + width / 2, y + height / 2].map((one) => one.toFixed(1)));
  bubbles.forEach((one, i) => one.setAttribute("transform", `translate(${places[i].join(" ")})`));
  all("line", map).forEach((line) => line.dataset.ends.split(" ").forEach((end, which) =>
    ["x", "y"].forEach((name, axis) => line.setAttribute(name + (which + 1), places[end][axis]))));
})();

// Tables sort by the column whose heading is pressed.
all("table.sortable").forEach((table) => {
  all("thead th", table).forEach((heading, column) => {
    if (heading.classList.contains("plain")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const falls = heading.getAttribute("aria-sort") === "ascending";
      all("th", table.tHead).forEach((one) => one.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", falls ? "descending" : "ascending");
      const value = (row) => {
        const cell = row.cells[column];
        return cell.dataset.value ?? cell.textContent.trim();
      };
      const rows = [...table.tBodies[0].rows].map((row) => [value(row), row]);
      const sign = falls ? -1 : 1;
      rows.sort(([x], [y]) => x === y ? 0 : x === "" ? 1 : y === "" ? -1 :
        sign * (isNaN(x) || isNaN(y) ? x.localeCompare(y, undefined, {numeric: true}) : x - y));
      table.tBodies[0].append(...rows.map(([, row]) => row));
    });
  });
});

// Lists that begin with a few show all when asked to.
document.addEventListener("click", (event) => {
  const more = event.target.closest(".more");
  if (!more) return;
  const list = document.createElement("ul");
  list.className = "tiles";
  list.append(...more.dataset.more.split(" ").map((number, index) => {
    const [name, , label, prediction, isWrong, picture] = instances[number];
    const tile = document.createElement("li"), button = document.createElement("button");
    tile.className = isWrong ? "tile wrong" : "tile";
    Object.assign(button, {type: "button", className: `t t${picture}`, tabIndex: index ? -1 : 0});
    button.dataset.i = number;
    button.setAttribute("aria-label", `${name}, larger`);
    tile.append(button);
    const says = (text, kind) => {
      const line = document.createElement("span");
      line.className = kind;
      line.textContent = text;
      tile.append(line);
    };
    if (label !== null) says(label, "");
    if (isWrong || (label === null && prediction !== null)) says(`→ ${prediction}`, "prediction");
    return tile;
  }));
  const few = more.previousElementSibling;
  if (few && few.classList.contains("tiles")) few.replaceWith(list);
  else more.before(list);
  more.remove();
  list.querySelector("button").focus();
});

// Any picture opens larger; arrows go on through those beside it.
(() => {
  const dialog = byId("large");
  let beside = [], at = 0;
  const show = (index) => {
    at = (index + beside.length) % beside.length;
    const from = beside[at];
    const [name, row, label, prediction, isWrong, picture] = instances[from.dataset.i];
    byId("large-name").textContent = name;
    const veil = from.querySelector(".veil"), tile = from.closest(".tile");
    byId("large-picture").className = `t t${picture}`;
    byId("large-picture").replaceChildren(...(veil ? [veil.cloneNode()] : []));
    byId("large-where").hidden = !veil;
    const whole = new Image(); // tells how wide and high the picture is
    whole.onload = () => {
      byId("large-picture").style.aspectRatio = `${whole.width} / ${whole.height}`;
    };
    whole.src = getComputedStyle(byId("large-picture")).backgroundImage.slice(5, -2);
    const said = [
      row !== null && name !== `Row ${row}` ? `row ${row}` : "",
      label === null ? "" : `label ${label}`,
      prediction === null ? "" : `${isWrong ? "wrongly " : ""}predicted ${prediction}`,
      ...(tile ? all(".note", tile).map((one) => one.textContent) : []),
    ];
    byId("large-said").textContent = said.filter(Boolean).join(" · ");
    byId("large-said").classList.toggle("warning-text", isWrong);
    byId("large-place").textContent = `${at + 1} of ${beside.length}`;
  };
  document.addEventListener("click", (event) => {
    const from = event.target.closest("button.t");
    if (!from) return;
    const group = from.closest(".tiles, .strip, tbody");
    beside = group ? all("button.t", group).filter((one) => one.offsetParent) : [from];
    show(beside.indexOf(from));
    const where = document.body.classList.contains("veiled");
    dialog.classList.toggle("veiled", where);
    byId("large-where").setAttribute("aria-pressed", where);
    dialog.showModal();
  });
  const close = () => dialog.close();
  byId("large-back").addEventListener("click", () => show(at - 1));
  byId("large-on").addEventListener("click", () => show(at + 1));
  byId("large-where").addEventListener("click", ({target}) =>
    target.setAttribute("aria-pressed", dialog.classList.toggle("veiled")));
  byId("large-close").addEventListener("click", close);
  dialog.addEventListener("click", (event) => { if (event.target === dialog) close(); });
  dialog.addEventListener("close", () => beside[at] && beside[at].focus());
  dialog.addEventListener("keydown", (event) => {
    const step = {ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1}[event.key];
    if (!step) return;
    event.preventDefault();
    show(at + step);
  });
})();

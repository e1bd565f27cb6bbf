"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const CHOSEN = ["mode", "alignment", "features"];

  // Sorting: numbers highest first, then lowest first, then the original order. Cells without a value come last.
  const value = (cell) => (cell.dataset.sort === undefined ? null : Number(cell.dataset.sort));
  const order = (numeric, down) => (a, b) => {
    if (numeric) {
      const [x, y] = [value(a), value(b)];
      if (x === null || y === null) return (x === null) - (y === null);
      return down ? y - x : x - y;
    }
    const [x, y] = [a.textContent.trim(), b.textContent.trim()];
    return (down ? -1 : 1) * x.localeCompare(y, "en", { numeric: true });
  };
  for (const table of all("table.sortable")) {
    const body = table.tBodies[0];
    const written = [...body.rows];
    const heads = all("thead tr:last-child th", table);
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const numeric = head.classList.contains("number");
      const steps = numeric ? ["descending", "ascending", "none"] : ["ascending", "descending", "none"];
      const next = steps[(steps.indexOf(head.getAttribute("aria-sort")) + 1) % 3];
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", next);
      const compare = order(numeric, next === "descending");
      const rows = next === "none" ? written : [...written].sort((a, b) => compare(a.cells[column], b.cells[column]));
      body.append(...rows);
    }));
  }

  // Filters hide items of another mode, alignment or feature set; items of several are always shown.
  const form = document.querySelector("form.switches");
  const show = () => {
    const wanted = CHOSEN.map((name) => [name, new FormData(form).get(name)]).filter(([, choice]) => choice);
    const fits = (item) => wanted.every(([name, choice]) => item.dataset[name] === undefined || item.dataset[name] === choice);
    for (const item of all("tbody tr, .card, figure.plot")) item.hidden = !fits(item);
    let tables = 0;
    for (const section of all("section.chosen")) {
      const rows = all("tbody tr", section);
      section.hidden = rows.length > 0 && rows.every((row) => row.hidden);
      tables += !section.hidden;
    }
    const figures = all("figure.plot").filter((figure) => !figure.hidden).length;
    const said = `${tables} table${tables === 1 ? "" : "s"}, ${figures} figure${figures === 1 ? "" : "s"} shown`;
    form.querySelector(".shown").textContent = wanted.length ? said : "";
  };
  if (form) {
    form.hidden = false;
    form.addEventListener("change", show);
    form.addEventListener("submit", (event) => event.preventDefault());
    show();
  }

  // The runs of a method: move its table from the list below into the dialog and back.
  const panel = document.getElementById("panel");
  if (panel && panel.showModal) {
    let home = null;
    const place = document.getElementById("panel-body");
    for (const link of all("a.runs")) {
      link.setAttribute("aria-haspopup", "dialog");
      link.addEventListener("click", (event) => {
        event.preventDefault();
        home = document.getElementById(link.hash.slice(1));
        const summary = home.querySelector("summary");
        document.getElementById("panel-title").textContent = `Runs of ${summary.firstChild.textContent.trim()}`;
        place.append(home.querySelector(".body"));
        panel.showModal();
      });
    }
    panel.addEventListener("close", () => home.append(place.firstElementChild));
    panel.addEventListener("click", (event) => event.target === panel && panel.close());
    document.getElementById("close").addEventListener("click", () => panel.close());
  }

  // Enlarge a figure; without JavaScript its link leads to the SVG file.
  const large = document.getElementById("large");
  if (large && large.showModal) {
    const place = document.getElementById("large-body");
    for (const link of all("a.enlarge")) {
      link.setAttribute("aria-haspopup", "dialog");
      link.addEventListener("click", (event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey) return;
        event.preventDefault();
        const image = link.querySelector("img").cloneNode();
        image.loading = "eager";
        image.width = 1.5 * Number(image.getAttribute("width"));
        image.removeAttribute("height");
        document.getElementById("large-title").textContent = link.closest("figure").querySelector("figcaption span").textContent;
        place.replaceChildren(image);
        large.showModal();
      });
    }
    large.addEventListener("close", () => place.replaceChildren());
    large.addEventListener("click", (event) => event.target === large && large.close());
    document.getElementById("close-large").addEventListener("click", () => large.close());
  }

  // Light or dark theme: the system's choice until the reader chooses.
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const label = () => { button.textContent = dark() ? "Light theme" : "Dark theme"; };
  try { if (localStorage.getItem("theme")) root.dataset.theme = localStorage.getItem("theme"); } catch { /* no storage */ }
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("theme", root.dataset.theme); } catch { /* no storage */ }
    label();
  });
  system.addEventListener("change", label);
  button.hidden = false;
  label();
})();

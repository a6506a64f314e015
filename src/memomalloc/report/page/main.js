// What is chosen, and who has to know.

class Grouping {
  constructor(tables, by, depth, theme) {
    Object.assign(this, { tables, by, depth });
    this.groups = tables.map((buffers) => buffers.groupNames(by, depth));
    const rows = new Map();
    this.groups.forEach(({ names, of }, t) => {
      const { length, sizes, starts, ends, peakTick } = tables[t];
      // Sums in plain columns first: there may be 100,000 buffers.
      const buffers = new Float64Array(names.length), total = new Float64Array(names.length), peak = new Float64Array(names.length);
      for (let i = 0; i < length; i++) {
        buffers[of[i]]++;
        total[of[i]] += sizes[i];
        if (starts[i] <= peakTick && peakTick < ends[i]) peak[of[i]] += sizes[i];
      }
      names.forEach((name, group) => {
        if (!rows.has(name)) rows.set(name, { name, buffers: 0, totalBytes: 0, peakBytes: tables.map(() => 0) });
        const row = rows.get(name);
        row.buffers += buffers[group];
        row.totalBytes += total[group];
        row.peakBytes[t] = peak[group];
      });
    });
    this.rows = [...rows.values()].filter((row) => row.buffers > 0);
    const most = (row) => Math.max(...row.peakBytes);
    // Sizes keep their order; else what counts most at the peak, then in total, is first and gets a colour of its own.
    if (by !== "size") this.rows.sort((a, b) => most(b) - most(a) || b.totalBytes - a.totalBytes || (a.name < b.name ? -1 : 1));
    this.recolour(theme);
  }

  recolour(theme) {
    const colours = groupColours(this.rows.length, this.by, theme);
    this.colours = new Map(this.rows.map((row, rank) => {
      row.colour = colours[this.by === "size" ? SIZE_CLASSES.indexOf(row.name) : rank];
      return [row.name, row.colour];
    }));
  }

  of(buffers) { return this.groups[this.tables.indexOf(buffers)]; }

  // A name without buffers is in no row and on no map.
  colour(name) { return this.colours.get(name) ?? "#808080"; }

  nameOf(buffers, i) { const { names, of } = this.of(buffers); return names[of[i]]; }

  colourOf(buffers, i) { return this.colour(this.nameOf(buffers, i)); }
}

class State {
  constructor(data) {
    document.documentElement.dataset.theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    this.tables = data.tables.map((table) => new Buffers(table, data.texts));
    this.view = new View(
      Math.min(...this.tables.map((buffers) => buffers.firstTick)), Math.max(...this.tables.map((buffers) => buffers.endTick)),
      Math.max(...data.layouts.map((layout) => layout.extentBytes)));
    Object.assign(this, { tick: null, hovered: null, chosen: null, group: null, query: "", keyed: false, masks: new Map() });
    this.hasOrigins = this.tables.some((buffers) => buffers.hasOrigins);
    this.by = data.by;
    this.resident = data.resident;
    this.depth = Math.max(...this.tables.map((buffers) => buffers.moduleDepth));
    this.grouping = new Grouping(this.tables, this.by, this.depth, this.theme);
    const parent = document.getElementById("panes");
    this.panes = data.layouts.map((layout) => new Pane(parent, layout, this.tables[layout.table], this.view, this));
    this.sidebar = new Sidebar(this);
    this.view.onChange(() => this.redraw());
    this.showLists();
  }

  get theme() { return document.documentElement.dataset.theme; }

  // All changes of one frame are drawn once.
  redraw() {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => {
      this.pending = null;
      for (const pane of this.panes) { pane.draw(); pane.curve.update(); }
    });
  }

  showLists() {
    this.sidebar.showGroups();
    this.sidebar.showAlive();
    this.sidebar.showDetails();
    this.sidebar.showAdvice();
    this.sidebar.showResident();
  }

  regroup(by, depth) {
    Object.assign(this, { by, depth, group: null });
    this.grouping = new Grouping(this.tables, by, depth, this.theme);
    this.remask();
    this.showLists();
  }

  switchTheme() {
    document.documentElement.dataset.theme = this.theme === "dark" ? "light" : "dark";
    this.grouping.recolour(this.theme);
    this.showLists();
    for (const pane of this.panes) pane.curve.redraw();
    this.redraw();
  }

  search(query) {
    this.query = query.trim();
    this.remask();
  }

  chooseGroup(name) {
    this.group = this.group === name ? null : name;
    this.remask();
    this.sidebar.showGroups();
  }

  // 1 for each buffer that is found by the search and in the chosen group; null: all are.
  maskOf(buffers) { return this.masks.get(buffers) ?? null; }

  remask() {
    this.masks = new Map();
    if (this.query || this.group !== null) {
      for (const buffers of this.tables) {
        const mask = this.query ? buffers.search(this.query) : new Uint8Array(buffers.length).fill(1);
        const { names, of } = this.grouping.of(buffers);
        if (this.group !== null) for (let i = 0; i < mask.length; i++) mask[i] &= names[of[i]] === this.group ? 1 : 0;
        this.masks.set(buffers, mask);
      }
    }
    let found = 0, bytes = 0;
    for (const [buffers, mask] of this.masks) mask.forEach((one, i) => { found += one; bytes += one * buffers.sizes[i]; });
    document.getElementById("matches").textContent = this.masks.size ? `${count(found)} found, ${byteText(bytes)}` : "";
    this.redraw();
  }

  hover(tick, buffer) {
    const same = this.hovered?.i === buffer?.i && this.hovered?.buffers === buffer?.buffers;
    Object.assign(this, { tick, hovered: buffer });
    for (const pane of this.panes) { pane.drawAbove(); pane.curve.point(tick); }
    if (!same) this.sidebar.showDetails();
  }

  forgetPointer() {
    Object.assign(this, { tick: null, hovered: null, keyed: true });
    for (const pane of this.panes) { pane.hideTip(); pane.curve.point(null); }
  }

  // i < 0: let go of the chosen buffer.
  choose(buffers, i, intoView = false) {
    this.chosen = i < 0 ? null : { buffers, i };
    // What a key or a list chooses is shown until the pointer moves again.
    if (intoView || i < 0) this.forgetPointer();
    if (this.chosen && intoView) this.moveIntoView(buffers, i);
    for (const pane of this.panes) pane.drawAbove();
    this.sidebar.showDetails();
    const { scrollTop } = this.sidebar.lists.alive;
    const focused = document.activeElement.closest("#alive tr")?.rowIndex;
    this.sidebar.showAlive();
    this.sidebar.lists.alive.scrollTop = scrollTop;
    if (focused) this.sidebar.lists.alive.querySelectorAll("button")[focused - 1]?.focus();
  }

  moveIntoView(buffers, i) {
    const { view } = this;
    const pane = this.panes.find((pane) => pane.buffers === buffers);
    const tick = (buffers.starts[i] + buffers.ends[i]) / 2, offset = pane.layout.offsets[i] + buffers.sizes[i] / 2;
    const isSeen = buffers.starts[i] < view.t1 && buffers.ends[i] > view.t0 && offset < view.o1 && offset > view.o0;
    if (!isSeen) view.pan((tick - (view.t0 + view.t1) / 2) / (view.t1 - view.t0), (offset - (view.o0 + view.o1) / 2) / (view.o1 - view.o0));
  }

  // The next buffer, or the one before, of those found, in order of allocation.
  step(direction) {
    const buffers = this.chosen?.buffers ?? this.tables[0];
    const mask = this.maskOf(buffers);
    let i = this.chosen?.i ?? (direction > 0 ? -1 : buffers.length);
    do i += direction; while (i >= 0 && i < buffers.length && mask && !mask[i]);
    if (i >= 0 && i < buffers.length) this.choose(buffers, i, true);
  }

  zoomToChosen() {
    if (!this.chosen) return;
    const { buffers, i } = this.chosen;
    const low = this.panes.find((pane) => pane.buffers === buffers).layout.offsets[i];
    const ticks = buffers.ends[i] - buffers.starts[i], bytes = buffers.sizes[i];
    this.view.show({
      t0: buffers.starts[i] - ticks, t1: buffers.ends[i] + ticks, o0: low - bytes, o1: low + 2 * bytes,
    });
  }

  goToPeak({ peakTick } = this.tables[0]) {
    const { view } = this;
    const half = Math.min(view.t1 - view.t0, (view.limits.t1 - view.limits.t0) / 5) / 2;
    view.show({ t0: peakTick - half, t1: peakTick + half });
    this.sidebar.open(document.getElementById("tab-alive"));
  }

  letGo() {
    document.getElementById("search").value = "";
    Object.assign(this, { query: "", group: null });
    this.remask();
    this.sidebar.showGroups();
    this.choose(null, -1);
  }
}

function wireControls(state) {
  const by = document.getElementById("by"), depth = document.getElementById("depth");
  const ofThreads = state.tables.some((buffers) => buffers.hasThreads) ? ["thread"] : [];
  const choices = state.hasOrigins ? ["module", "operator", "source", "role", ...ofThreads, "size"] : ["size"];
  by.append(...choices.map((choice) => new Option(choice)));
  const deepest = Math.max(...state.tables.map((buffers) => buffers.deepestModule()));
  depth.append(...Array.from({ length: deepest }, (_, i) => new Option(i + 1 === deepest ? "all" : String(i + 1), i + 1)));
  by.value = state.by;
  depth.value = state.depth;
  const update = () => {
    document.getElementById("depth-label").hidden = by.value !== "module";
    state.regroup(by.value, Number(depth.value));
  };
  by.addEventListener("change", update);
  depth.addEventListener("change", update);
  document.getElementById("depth-label").hidden = state.by !== "module";

  const search = document.getElementById("search");
  search.disabled = !state.hasOrigins;
  if (search.disabled) {
    search.placeholder = "No origins to search: show the plan with --trace";
    search.title = "A plan alone does not know who asked for its buffers. memomalloc show PLAN --trace TRACE does.";
  }
  search.addEventListener("input", () => state.search(search.value));
  search.addEventListener("keydown", (event) => {
    if (event.key === "Enter") state.step(event.shiftKey ? -1 : 1);
  });
  const keys = document.getElementById("keys");
  const actions = {
    "zoom-in": () => state.view.zoom(1 / 1.5, 1 / 1.5), "zoom-out": () => state.view.zoom(1.5, 1.5),
    fit: () => state.view.fit(), peak: () => state.goToPeak(), theme: () => state.switchTheme(), help: () => keys.showModal(),
  };
  for (const [id, action] of Object.entries(actions)) document.getElementById(id).addEventListener("click", action);

  const byKey = {
    "/": () => { search.focus(); search.select(); }, "+": actions["zoom-in"], "=": actions["zoom-in"], "-": actions["zoom-out"],
    0: actions.fit, n: () => state.step(1), p: () => state.step(-1), g: actions.peak, t: actions.theme, "?": actions.help,
    ArrowLeft: () => state.view.pan(-0.1, 0), ArrowRight: () => state.view.pan(0.1, 0),
    ArrowUp: () => state.view.pan(0, 0.1), ArrowDown: () => state.view.pan(0, -0.1),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || keys.open) return;
    if (event.key === "Escape") {
      state.letGo();
      if (event.target === search) state.panes[0].map.focus();
      return;
    }
    const { target } = event;
    const typing = target === search || target.tagName === "SELECT";
    const scrolling = event.key.startsWith("Arrow") && target.closest("aside");
    if (typing || scrolling) return;
    if (event.key === "Enter" && target.classList.contains("map")) { state.zoomToChosen(); return; }
    const action = byKey[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
}

const state = new State(JSON.parse(document.getElementById("data").textContent));
wireControls(state);

// The lists beside the maps: the buffer at hand, the groups, who is alive at the peak.

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  Object.assign(made, attributes);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// Paths may be broken behind their separators.
function breakable(text) {
  return element("span", { title: text }, ...text.split(/(?<=[./])/).flatMap((part) => [part, element("wbr", {})]));
}

// The end of a path says more than its beginning.
const shortPath = (path) => path.split("/").length > 5 ? `…/${path.split("/").slice(-3).join("/")}` : path;

// More rows than that help nobody, and would take seconds.
const MAX_ROWS = 500;

class Sidebar {
  constructor(state) {
    this.state = state;
    this.details = document.getElementById("details");
    this.lists = Object.fromEntries(["groups", "alive", "advice", "resident"].map((id) => [id, document.getElementById(id)]));
    document.getElementById("tab-resident").hidden = !state.resident;
    this.tabs = [...document.querySelectorAll("[role=tab]:not([hidden])")];
    for (const tab of this.tabs) tab.addEventListener("click", () => this.open(tab));
    document.querySelector("[role=tablist]").addEventListener("keydown", (event) => {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      const step = event.key === "ArrowRight" ? 1 : this.tabs.length - 1;
      const other = this.tabs[(this.tabs.indexOf(event.target) + step) % this.tabs.length];
      this.open(other);
      other.focus();
      event.stopPropagation();
    });
  }

  open(chosen) {
    for (const tab of this.tabs) {
      tab.setAttribute("aria-selected", tab === chosen);
      tab.tabIndex = tab === chosen ? 0 : -1;
      document.getElementById(tab.getAttribute("aria-controls")).hidden = tab !== chosen;
    }
  }

  swatch(colour) {
    const made = element("span", { className: "swatch" });
    made.style.background = colour;
    return made;
  }

  // What is drawn besides buffers.
  legend() {
    const layouts = this.state.panes.map((pane) => pane.layout);
    const isSnapshot = this.state.tables.some((buffers) => buffers.givenCurve);
    return [
      ...(isSnapshot ? [] : ["Striped: the place of a buffer that outlives the run; nobody else may have it."]),
      ...(layouts.some((layout) => layout.reserved)
        ? ["Pale: what the allocator had reserved, free where no buffer lies. The red line in the curve is its sum."] : []),
      ...(layouts.some((layout) => layout.note)
        ? ["There are more buffers than rectangles: the curve, its peak and the bytes above each map are of all, groups and lists of what is drawn."] : []),
    ];
  }

  showDetails() {
    const { state } = this;
    const shown = state.hovered ?? state.chosen;
    if (!shown) {
      this.details.replaceChildren(
        element("h2", {}, "Point at a buffer"),
        element("p", {}, "Each rectangle is one buffer: its width is its lifetime, its height its size, its place the offset in the arena."),
        ...this.legend().map((text) => element("p", {}, text)),
        element("p", {}, "Press ? for the keys."));
      return;
    }
    const { buffers, i } = shown;
    const asker = buffers.askerOf(i);
    const rows = [["size", `${byteText(buffers.sizes[i])} (${count(buffers.sizes[i])} bytes)`]];
    const ticks = buffers.ends[i] - buffers.starts[i];
    rows.push(["lifetime", `ticks [${count(buffers.starts[i])}, ${count(buffers.ends[i])}), ${count(ticks)} long` +
      (buffers.escapes[i] ? "; outlives the run" : "")]);
    for (const pane of state.panes.filter((pane) => pane.buffers === buffers)) {
      const low = pane.layout.offsets[i];
      rows.push([state.panes.length > 1 ? `in ${pane.layout.title}` : "offset", `[${count(low)}, ${count(low + buffers.sizes[i])})`]);
    }
    if (asker) {
      rows.push(["module", asker.module || NO_MODULE], ["operator", asker.operators.join(" › ") || UNKNOWN]);
      if (asker.source) rows.push(["source", `${shortPath(asker.sourceText)} in ${asker.source.function}`]);
      rows.push(["role", `${asker.role}, occurrence ${buffers.occurrence[i]}`]);
      if (asker.thread) rows.push(["thread", asker.thread]);
    }
    this.details.replaceChildren(
      element("h2", {}, this.swatch(state.grouping.colourOf(buffers, i)), breakable(`${buffers.nameOf(i)} · ${byteText(buffers.sizes[i])}`)),
      element("dl", {}, ...rows.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, breakable(value))])));
  }

  showGroups() {
    const { state } = this;
    const several = state.tables.length > 1;
    const heads = several ? ["group", ...state.panes.map((pane) => `peak of ${pane.layout.title}`)] : ["group", "buffers", "total", "at peak"];
    const rows = state.grouping.rows.slice(0, MAX_ROWS).map((row) => {
      const values = several
        ? state.panes.map((pane) => byteText(row.peakBytes[state.tables.indexOf(pane.buffers)]))
        : [count(row.buffers), byteText(row.totalBytes), byteText(row.peakBytes[0])];
      const button = element("button", { type: "button", onclick: () => state.chooseGroup(row.name) }, this.swatch(row.colour), breakable(state.by === "source" ? shortPath(row.name) : row.name));
      button.setAttribute("aria-pressed", state.group === row.name);
      return this.row([button, ...values], state.group === row.name);
    });
    this.lists.groups.replaceChildren(this.table(`By ${state.grouping.by}; choose one to see where it is`, heads, rows, state.grouping.rows.length));
  }

  showAlive() {
    const { state } = this;
    const tables = state.panes.filter((pane, i) => state.panes.findIndex((other) => other.buffers === pane.buffers) === i).map(({ buffers, layout }) => {
      const rows = buffers.aliveAtPeak.slice(0, MAX_ROWS).map((i) => {
        const asker = buffers.askerOf(i);
        const chosen = state.chosen?.buffers === buffers && state.chosen.i === i;
        const button = element("button", { type: "button", onclick: () => state.choose(buffers, i, true) },
          this.swatch(state.grouping.colourOf(buffers, i)),
          element("span", {}, buffers.nameOf(i), asker?.module ? element("small", {}, " ", breakable(asker.module)) : null,
            buffers.advice ? element("small", {}, ` · ${buffers.advice.reasons[i] ?? ""}`) : null));
        return this.row([button, byteText(buffers.sizes[i])], chosen);
      });
      const of = state.tables.length > 1 ? ` of ${layout.title}` : "";
      const table = this.table(`${count(buffers.aliveAtPeak.length)} buffers, ${byteText(buffers.peakLiveBytes)} alive at the peak${of} ` +
        `(tick ${count(buffers.peakTick)})`, ["buffer", "size"], rows, buffers.aliveAtPeak.length);
      if (!buffers.advice) return [table];
      const link = element("button", { type: "button", className: "link", onclick: () => this.open(document.getElementById("tab-advice")) }, "What would lower it");
      return [element("p", {}, `${buffers.advice.peak}. `, link), table];
    });
    this.lists.alive.replaceChildren(...tables.flat());
  }

  // What would lower the peak: computed when the page was made.
  showAdvice() {
    const { state } = this;
    this.lists.advice.replaceChildren(...state.tables.flatMap((buffers) => {
      const name = state.tables.length > 1 ? [element("h3", {}, state.panes.find((pane) => pane.buffers === buffers).layout.title)] : [];
      const { advice } = buffers;
      if (!advice) {
        return [...name, element("p", {}, "Not known: this file does not say who read its tensors. Record the program " +
          "again with record(calls=True), in one thread and without torch.compile, and show the trace.")];
      }
      const less = (bytes) => `${byteText(bytes)} (${Math.round(100 * (1 - bytes / advice.peakBytes))} % less)`;
      const what = ({ text, places, modules, alters }) => [
        text + (places > 1 ? ` (${count(places)} times)` : ""),
        modules.length ? element("small", {}, "only in ", breakable(modules.join(", "))) : null,
        element("small", {}, alters)];
      const lines = [...name, element("p", {}, `${advice.peak}.`)];
      if (advice.together.length) {
        lines.push(element("h3", {}, `${advice.together.length > 1 ? `These ${advice.together.length} together` : "This gives most"}: ` +
          `${byteText(advice.peakBytes)} → ${less(advice.togetherBytes)}`));
        lines.push(element("ol", {}, ...advice.together.map((change) => element("li", {}, ...what(change)))));
      } else lines.push(element("h3", {}, "Nothing that is known to lower it exactly"));
      if (advice.changes.length) {
        const rows = advice.changes.map((change) =>
          this.row([element("span", {}, ...what(change)), `${change.isExact ? "" : "≥ "}${byteText(change.peakBytes)}`]));
        lines.push(this.table("Each alone (≥: the least that is left; the trace does not tell how much is)", ["change", "peak after"], rows, rows.length));
      }
      return lines;
    }));
  }

  // What the memory of the whole process is for: told by the doctor.
  showResident() {
    const { resident } = this.state;
    if (!resident) return;
    const isGrowthKnown = resident.parts.some(([, , growth]) => growth !== null);
    const change = (bytes) => `${bytes < 0 ? "−" : "+"}${byteText(Math.abs(bytes))}`;
    const cells = (name, bytes, growth, source) => this.row([
      element("span", {}, name, source ? element("small", {}, source) : null), byteText(bytes), ...(isGrowthKnown ? [change(growth)] : [])]);
    const sum = (at) => resident.parts.reduce((total, part) => total + part[at], 0);
    const rows = [...resident.parts.map((part) => cells(...part)), cells("all", sum(1), sum(2))];
    this.lists.resident.replaceChildren(
      element("h3", {}, resident.verdict), element("p", {}, resident.growth),
      ...resident.findings.flatMap(({ name, figures, remedies }) => [
        element("h3", {}, name),
        element("ul", {}, ...figures.map((figure) => element("li", {}, figure))),
        ...remedies.map((remedy) => element("p", {}, element("b", {}, "remedy: "), remedy))]),
      this.table("What its resident memory is for", ["part", "size", ...(isGrowthKnown ? ["grew by"] : [])], rows, rows.length));
  }

  table(caption, heads, rows, numRows) {
    const more = numRows > rows.length ? [this.row([`and ${count(numRows - rows.length)} more`])] : [];
    return element("table", {}, element("caption", {}, caption),
      element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", { scope: "col" }, head)))),
      element("tbody", {}, ...rows, ...more));
  }

  row(cells, chosen) {
    return element("tr", { className: chosen ? "chosen" : "" }, ...cells.map((cell) => element("td", {}, cell)));
  }
}

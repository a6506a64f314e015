// One placement: its facts, its curve, its map, and what pointers do in it.

class Pane {
  constructor(parent, layout, buffers, view, state) {
    this.layout = layout;
    this.buffers = buffers;
    this.view = view;
    this.state = state;
    const isPlan = layout.lowerBoundBytes !== null;
    layout.extentName = isPlan ? "arena" : "extent";
    // A history happens once: there, the place of what is never freed is its own only from its allocation on.
    this.painter = new Painter(buffers, layout.offsets, isPlan && !buffers.givenCurve, layout.reserved);
    this.element = document.createElement("section");
    this.element.className = "pane";
    this.element.setAttribute("aria-label", `Memory map of ${layout.title}`);
    this.element.innerHTML = `<h2><span class="now"></span><span class="title"></span></h2><p class="facts"></p>
      <div class="curve"></div>
      <div class="map" tabindex="0" role="application" aria-roledescription="memory map"><canvas></canvas>
      <canvas class="above"></canvas></div>`;
    parent.append(this.element);
    this.find(".title").textContent = layout.title;
    this.find(".facts").append(...this.facts());
    this.map = this.find(".map");
    this.map.setAttribute("aria-label", `${layout.title}: ${count(buffers.length)} buffers in ` +
      `${byteText(layout.extentBytes)}, offset against time. N and P step through the buffers, arrow keys move, ` +
      "plus and minus zoom, question mark lists all keys.");
    [this.canvas, this.above] = this.map.querySelectorAll("canvas");
    this.curve = new Curve(this.find(".curve"), this);
    new ResizeObserver(() => this.resize()).observe(this.element);
    this.listen();
  }

  find(selector) { return this.element.querySelector(selector); }

  facts() {
    const { layout, buffers } = this;
    const facts = [["buffers", count(buffers.length)], [layout.extentName, byteText(layout.extentBytes)]];
    if (layout.lowerBoundBytes !== null) {
      const gap = layout.lowerBoundBytes ? layout.extentBytes / layout.lowerBoundBytes - 1 : 0;
      // An escape's place is nobody else's from the first tick to the last: no plan can be as small as the peak.
      const reserved = layout.lowerBoundBytes - buffers.peakLiveBytes;
      const why = reserved > 0 && !buffers.givenCurve && buffers.escapeIndices.length
        ? ` (peak ${byteText(buffers.peakLiveBytes)} + ${byteText(reserved)} kept for outputs)` : "";
      facts.push(["lower bound", byteText(layout.lowerBoundBytes), why]);
      facts.push(["gap", `${(100 * gap).toFixed(gap && gap < 0.01 ? 2 : 1)} %${layout.provenOptimal ? ", optimal" : ""}`]);
    }
    if (layout.reserved) {
      const reserved = Math.max(0, ...buffers.curve()[2]), atPeak = buffers.reservedBytesAt(buffers.peakTick);
      facts.push(["reserved", byteText(reserved), ` (at the peak ${byteText(atPeak)} for ${byteText(buffers.peakLiveBytes)} alive)`]);
    } else if (!buffers.givenCurve) {
      facts.push(["without reuse", byteText(buffers.totalBytes)]);
    }
    if (layout.note) facts.push(["drawn", layout.note]);
    if (layout.elsewhereBytes) {
      facts.push(["other threads, not shown:", byteText(layout.elsewhereBytes), ` in ${count(layout.elsewhereRequests)} allocations`]);
    }
    return facts.flatMap(([name, value, why = ""], i) => {
      const bold = document.createElement("b");
      bold.textContent = value;
      return [`${i ? " · " : ""}${name} `, bold, why];
    });
  }

  // Pixels of the plot, and where it begins, in pixels of the screen.
  get plot() {
    return {
      left: MARGIN.left, top: MARGIN.top,
      width: Math.max(1, this.map.clientWidth - MARGIN.left - MARGIN.right),
      height: Math.max(1, this.map.clientHeight - MARGIN.top - MARGIN.bottom),
    };
  }

  resize() {
    for (const canvas of [this.canvas, this.above]) {
      canvas.width = Math.round(this.map.clientWidth * devicePixelRatio);
      canvas.height = Math.round(this.map.clientHeight * devicePixelRatio);
    }
    this.curve.resize();
    this.draw();
  }

  // Paints everything. What follows the pointer is painted above, by drawAbove().
  draw() {
    const dpr = devicePixelRatio, { plot, view } = this;
    const width = Math.max(1, Math.round(plot.width * dpr)), height = Math.max(1, Math.round(plot.height * dpr));
    // The processor makes the pixels, so they stay where it is.
    const context = this.canvas.getContext("2d", { willReadFrequently: true });
    if (this.image?.width !== width || this.image.height !== height) this.image = context.createImageData(width, height);
    const offsets = byteMarks(view.o0, view.o1, Math.max(2, plot.height / 48));
    const paper = rgb(cssColour("--paper"));
    const { names, of } = this.state.grouping.of(this.buffers);
    const colours = names.map((name) => this.state.grouping.colour(name));
    const labelled = this.painter.paint(this.image, view, {
      groupOf: of, colours, mask: this.state.maskOf(this.buffers), paper,
      grid: { offsets, pixel: pixel(rgb(cssColour("--grid"))) },
      segment: { inside: pixel(rgb(cssColour("--segment"))), edge: pixel(rgb(cssColour("--line"))) }, labelWidth: 46 * dpr, labelHeight: 14 * dpr,
    });
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.putImageData(this.image, Math.round(plot.left * dpr), Math.round(plot.top * dpr));
    context.save();
    context.scale(dpr, dpr);
    this.drawAxes(context, offsets);
    context.restore();
    this.drawLabels(context, labelled, colours, of, dpr);
    this.drawLanes(context, dpr);
    this.drawAbove();
  }

  drawAxes(context, offsets) {
    const { plot, view } = this;
    context.font = "11px system-ui, DejaVu Sans, sans-serif";
    context.fillStyle = context.strokeStyle = cssColour("--soft");
    context.textBaseline = "middle";
    context.textAlign = "right";
    for (const offset of offsets) {
      context.fillText(byteMark(offset), plot.left - 6, this.yOf(offset));
    }
    context.textBaseline = "top";
    context.textAlign = "center";
    const bottom = plot.top + plot.height;
    for (const tick of tickMarks(view.t0, view.t1, plot.width / 80)) {
      context.fillRect(this.xOf(tick), bottom, 1, 4);
      context.fillText(count(tick), Math.min(this.xOf(tick), this.map.clientWidth - 24), bottom + 7);
    }
    context.textAlign = "left";
    context.fillText("tick", 8, bottom + 7);
    context.strokeStyle = cssColour("--line");
    context.strokeRect(plot.left - 0.5, plot.top - 0.5, plot.width + 1, plot.height + 1);
  }

  // Each thread's lane begins at a line that has its name.
  drawLanes(context, dpr) {
    const { plot, layout } = this;
    context.save();
    context.scale(dpr, dpr);
    context.beginPath();
    context.rect(plot.left, plot.top, plot.width, plot.height);
    context.clip();
    context.font = "11px system-ui, DejaVu Sans, sans-serif";
    context.textAlign = "right";
    context.textBaseline = "bottom";
    for (const [thread, offset] of layout.lanes) {
      const y = Math.round(this.yOf(offset)), width = context.measureText(thread).width + 8, right = plot.left + plot.width;
      context.fillStyle = cssColour("--ink");
      context.fillRect(plot.left, y - 1, plot.width, 1);
      context.fillStyle = cssColour("--paper");
      context.fillRect(right - width, y - 16, width, 15);
      context.fillStyle = cssColour("--ink");
      context.fillText(thread, right - 4, y - 2);
    }
    context.restore();
  }

  drawLabels(context, labelled, colours, groupOf, dpr) {
    const { plot, state } = this;
    const mask = state.maskOf(this.buffers);
    context.textBaseline = "top";
    context.textAlign = "left";
    for (const { i, x0, x1, y0, y1 } of labelled) {
      if (mask && !mask[i]) continue;
      context.save();
      context.beginPath();
      context.rect(plot.left * dpr + x0, plot.top * dpr + y0, x1 - x0 - 3 * dpr, y1 - y0);
      context.clip();
      context.fillStyle = isBright(rgb(colours[groupOf[i]])) ? "#000000" : "#ffffff";
      context.font = `${11 * dpr}px system-ui, DejaVu Sans, sans-serif`;
      const room = x1 - x0 - 10 * dpr;
      context.fillText(fitted(context, this.buffers.nameOf(i), room), plot.left * dpr + x0 + 4 * dpr, plot.top * dpr + y0 + 3 * dpr);
      if (y1 - y0 >= 30 * dpr) {
        context.globalAlpha = 0.85;
        context.fillText(fitted(context, byteText(this.buffers.sizes[i]), room), plot.left * dpr + x0 + 4 * dpr, plot.top * dpr + y0 + 16 * dpr);
      }
      context.restore();
    }
  }

  xOf(tick) { return this.plot.left + ((tick - this.view.t0) * this.plot.width) / (this.view.t1 - this.view.t0); }

  yOf(offset) {
    const { plot, view } = this;
    return plot.top + plot.height - ((offset - view.o0) * plot.height) / (view.o1 - view.o0);
  }

  // The line of the peak, the line of the pointer, and frames around the chosen buffer and the one under the pointer.
  drawAbove() {
    const context = this.above.getContext("2d"), { plot, state, buffers, layout } = this;
    context.save();
    context.clearRect(0, 0, this.above.width, this.above.height);
    context.scale(devicePixelRatio, devicePixelRatio);
    context.beginPath();
    context.rect(plot.left, plot.top, plot.width, plot.height);
    context.clip();
    this.drawLine(context, [plot.left, this.yOf(layout.extentBytes)], [plot.left + plot.width, this.yOf(layout.extentBytes)], cssColour("--soft"), [5, 4]);
    this.drawTick(context, buffers.peakTick + 0.5, cssColour("--mark"), [4, 4]);
    if (state.tick !== null) this.drawTick(context, state.tick, cssColour("--soft"), [1, 2]);
    if (state.hovered?.buffers === buffers) this.drawFrame(context, state.hovered.i, cssColour("--ink"), 1.5);
    if (state.chosen?.buffers === buffers) this.drawFrame(context, state.chosen.i, cssColour("--mark"), 3);
    context.restore();
    const tick = state.tick === null ? buffers.peakTick : Math.floor(state.tick);
    this.find(".now").textContent =
      `${state.tick === null ? "peak, " : ""}tick ${count(tick)}: ${byteText(buffers.liveBytesAt(tick))} alive` +
      (layout.reserved ? ` of ${byteText(buffers.reservedBytesAt(tick))} reserved` : "");
  }

  drawTick(context, tick, colour, dash) {
    this.drawLine(context, [this.xOf(tick), 0], [this.xOf(tick), this.map.clientHeight], colour, dash);
  }

  drawLine(context, from, to, colour, dash) {
    context.strokeStyle = colour;
    context.lineWidth = 1;
    context.setLineDash(dash);
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(...to);
    context.stroke();
    context.setLineDash([]);
  }

  drawFrame(context, i, colour, lineWidth) {
    const { buffers, layout } = this;
    const x = this.xOf(buffers.starts[i]), y = this.yOf(layout.offsets[i] + buffers.sizes[i]);
    const width = Math.max(2, this.xOf(buffers.ends[i]) - x), height = Math.max(2, this.yOf(layout.offsets[i]) - y);
    // A line of paper around the frame keeps it visible on every colour.
    for (const [style, extra] of [[cssColour("--paper"), 2], [colour, 0]]) {
      context.strokeStyle = style;
      context.lineWidth = lineWidth + extra;
      context.strokeRect(x - 1, y - 1, width + 2, height + 2);
    }
  }

  tickAt(x) { return this.view.t0 + ((x - this.plot.left) / this.plot.width) * (this.view.t1 - this.view.t0); }

  offsetAt(y) {
    const { plot, view } = this;
    return view.o0 + ((plot.top + plot.height - y) / plot.height) * (view.o1 - view.o0);
  }

  bufferAt(x, y) {
    const dpr = devicePixelRatio, { plot } = this;
    return this.painter.at((x - plot.left) * dpr, (y - plot.top) * dpr, this.view, this.image.width, this.image.height);
  }

  listen() {
    const { map, view, state } = this;
    const pointers = new Map();
    let moved = 0, frame = null;
    const place = (event) => {
      const bounds = map.getBoundingClientRect();
      return { x: event.clientX - bounds.left, y: event.clientY - bounds.top };
    };
    map.addEventListener("wheel", (event) => {
      event.preventDefault();
      const { x, y } = place(event);
      const factor = 1.0018 ** Math.max(-300, Math.min(300, event.deltaY || event.deltaX));
      view.zoom(event.altKey ? 1 : factor, event.shiftKey ? 1 : factor, this.tickAt(x), this.offsetAt(y));
    }, { passive: false });
    map.addEventListener("pointerdown", (event) => {
      map.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, place(event));
      moved = 0;
      if (event.shiftKey && pointers.size === 1) frame = { ...place(event), element: map.appendChild(document.createElement("div")) };
      if (frame) frame.element.className = "frame";
    });
    let last = null;
    map.addEventListener("pointermove", (event) => {
      const now = place(event), before = pointers.get(event.pointerId);
      // A pointer that rests may be told to move when what lies under it changes: no reason to undo what a key did.
      if (state.keyed && last && last.x === now.x && last.y === now.y) return;
      state.keyed = false;
      last = now;
      if (!before) { this.hover(now); return; }
      moved += Math.hypot(now.x - before.x, now.y - before.y);
      if (frame) {
        Object.assign(frame.element.style, {
          left: `${Math.min(frame.x, now.x)}px`, top: `${Math.min(frame.y, now.y)}px`,
          width: `${Math.abs(now.x - frame.x)}px`, height: `${Math.abs(now.y - frame.y)}px`,
        });
      } else if (pointers.size === 1 && moved > 3) {
        map.classList.add("moving");
        view.pan((before.x - now.x) / this.plot.width, (now.y - before.y) / this.plot.height);
      } else if (pointers.size === 2) {
        const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
        const factor = Math.hypot(before.x - other.x, before.y - other.y) / Math.max(8, Math.hypot(now.x - other.x, now.y - other.y));
        view.zoom(factor, factor, this.tickAt((now.x + other.x) / 2), this.offsetAt((now.y + other.y) / 2));
      }
      pointers.set(event.pointerId, now);
    });
    const release = (event) => {
      if (!pointers.delete(event.pointerId)) return;
      map.classList.remove("moving");
      const { x, y } = place(event);
      if (frame) {
        frame.element.remove();
        if (moved > 6) {
          const [t0, t1] = [this.tickAt(frame.x), this.tickAt(x)].sort((a, b) => a - b);
          const [o0, o1] = [this.offsetAt(frame.y), this.offsetAt(y)].sort((a, b) => a - b);
          view.show({ t0, t1, o0, o1 });
        }
        frame = null;
      } else if (moved <= 3 && event.type === "pointerup") {
        state.choose(this.buffers, this.bufferAt(x, y));
      }
    };
    map.addEventListener("pointerup", release);
    map.addEventListener("pointercancel", release);
    map.addEventListener("pointerleave", () => { last = null; this.hover(null); });
    map.addEventListener("dblclick", () => state.zoomToChosen());
  }

  hover(at) {
    const { plot, state } = this;
    const inside = at && at.x >= plot.left && at.x < plot.left + plot.width && at.y >= plot.top && at.y < plot.top + plot.height;
    const i = inside ? this.bufferAt(at.x, at.y) : -1;
    state.hover(inside ? this.tickAt(at.x) : null, i < 0 ? null : { buffers: this.buffers, i });
    this.hideTip();
    if (i < 0) return;
    const asker = this.buffers.askerOf(i);
    this.tip = makeTip(this.buffers.nameOf(i), byteText(this.buffers.sizes[i]), asker?.module);
    this.map.append(this.tip);
    const { left, top } = this.tipPlace(at, i, this.tip.offsetWidth, this.tip.offsetHeight);
    Object.assign(this.tip.style, { left: `${left}px`, top: `${top}px` });
  }

  hideTip() {
    this.tip?.remove();
    this.tip = null;
  }

  // Where the tip of a buffer hides least: on the buffer itself if there is room, else beside the pointer where the
  // fewest others are.
  tipPlace(at, i, width, height) {
    const { buffers, layout, map } = this;
    const box = {
      x0: Math.max(this.xOf(buffers.starts[i]), 0), x1: Math.min(this.xOf(buffers.ends[i]), map.clientWidth),
      y0: Math.max(this.yOf(layout.offsets[i] + buffers.sizes[i]), 0), y1: Math.min(this.yOf(layout.offsets[i]), map.clientHeight),
    };
    const clamp = (value, low, high) => Math.max(low, Math.min(value, high));
    if (box.x1 - box.x0 >= width + 4 && box.y1 - box.y0 >= height + 4) {
      return { left: clamp(at.x + 14, box.x0 + 2, box.x1 - width - 2), top: clamp(at.y + 14, box.y0 + 2, box.y1 - height - 2) };
    }
    const places = [at.x + 14, at.x - 14 - width].flatMap((x) => [at.y + 14, at.y - 14 - height, box.y1 + 4, box.y0 - 4 - height].map((y) => (
      { left: clamp(x, 0, map.clientWidth - width), top: clamp(y, 0, map.clientHeight - height) })));
    const hidden = places.map(({ left, top }) => this.numOthersUnder(left, top, width, height, i, at));
    return places[hidden.indexOf(Math.min(...hidden))];
  }

  // How much of a rectangle lies on other buffers than i, in samples; one that hides the pointer is worst.
  numOthersUnder(left, top, width, height, i, at) {
    if (at.x >= left - 2 && at.x <= left + width + 2 && at.y >= top - 2 && at.y <= top + height + 2) return Infinity;
    const { plot, image, buffers, layout } = this, dpr = devicePixelRatio, paper = rgb(cssColour("--paper")), grid = rgb(cssColour("--grid"));
    const segment = rgb(cssColour("--segment"));
    let found = 0;
    for (let row = 0; row < 5; row++) {
      for (let column = 0; column < 9; column++) {
        const x = left + (width * column) / 8, y = top + (height * row) / 4;
        const px = Math.floor((x - plot.left) * dpr), py = Math.floor((y - plot.top) * dpr);
        if (px < 0 || py < 0 || px >= image.width || py >= image.height) continue;
        const tick = this.tickAt(x), offset = this.offsetAt(y) - layout.offsets[i];
        if (tick >= buffers.starts[i] && tick < buffers.ends[i] && offset >= 0 && offset < buffers.sizes[i]) continue;
        const colour = image.data.subarray(4 * (py * image.width + px), 4 * (py * image.width + px) + 3);
        if (![paper, grid, segment].some((empty) => empty.every((value, channel) => value === colour[channel]))) found++;
      }
    }
    return found;
  }
}

// As much of a text as there is room for, with an ellipsis where some of it is left out.
function fitted(context, text, room) {
  if (context.measureText(text).width <= room) return text;
  let low = 0, high = text.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (context.measureText(`${text.slice(0, middle)}…`).width <= room) low = middle; else high = middle - 1;
  }
  return low > 0 ? `${text.slice(0, low)}…` : "";
}

function makeTip(name, size, module) {
  const tip = document.createElement("div");
  tip.className = "tip";
  const bold = document.createElement("b");
  bold.textContent = name;
  tip.append(bold, ` ${size}`);
  if (module) tip.append(document.createElement("br"), module);
  return tip;
}

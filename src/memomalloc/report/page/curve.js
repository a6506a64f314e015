// The curve of live bytes above a map, on the same axis of time; drawn by uPlot.

// Pixels beside the plots, the same for curve and map so that they line up.
const MARGIN = { left: 68, right: 14, top: 6, bottom: 24 };
// Above the curve, a row for each depth of what the program gave names to.
const MARK_ROW = 15;

class Curve {
  constructor(element, pane) {
    this.element = element;
    this.pane = pane;
    const { buffers, view } = pane;
    const most = view.limits.o1;  // the same in all panes, so that their curves compare
    this.marks = pane.layout.marks.map(([name, start, end, depth, isMoment, isFailure]) =>
      ({ name, start, end, depth, isMoment, isFailure })).sort((one, other) => one.isFailure - other.isFailure);
    this.rows = Math.max(0, ...this.marks.map((mark) => mark.depth + 1));
    element.style.height = `${element.clientHeight + MARK_ROW * this.rows}px`;
    element.addEventListener("mousemove", (event) => { element.title = this.marksAt(event).join("\n"); });
    this.mark = document.createElement("button");
    this.mark.className = "peak";
    this.mark.textContent = `peak ${byteText(buffers.peakLiveBytes)}`;
    this.mark.title = buffers.advice ? buffers.advice.peak : "Who is alive at the peak";
    this.mark.addEventListener("click", () => pane.state.goToPeak(buffers));
    element.append(this.mark);
    const stroke = (name) => () => cssColour(name);
    this.plot = new uPlot({
      width: 400,
      height: element.clientHeight,
      padding: [10 + MARK_ROW * this.rows, MARGIN.right, 4, 0],
      legend: { show: false },
      cursor: { y: false, points: { show: false }, drag: { x: true, y: false, setScale: false } },
      scales: {
        x: { time: false, range: () => [view.t0, view.t1] },
        y: { range: () => [0, most * 1.1] },
      },
      axes: [
        { show: false },
        {
          size: MARGIN.left, gap: 4, stroke: stroke("--soft"), font: "11px system-ui, DejaVu Sans, sans-serif",
          grid: { stroke: stroke("--grid"), width: 1 }, ticks: { show: false },
          splits: () => byteMarks(0, most, 3), values: (_, splits) => splits.map(byteMark),
        },
      ],
      series: [
        {},
        {
          stroke: stroke("--accent"), width: 1.5, points: { show: false },
          fill: () => `color-mix(in srgb, ${cssColour("--accent")} 14%, transparent)`,
        },
        ...(buffers.curve().length > 2 ? [{ stroke: stroke("--mark"), width: 1.5, points: { show: false } }] : []),
      ],
      hooks: {
        draw: [(plot) => this.drawMarks(plot)],
        setSelect: [(plot) => this.zoomToSelection(plot)],
      },
    }, buffers.curve(), element);
  }

  resize() { this.plot.setSize({ width: this.element.clientWidth, height: this.element.clientHeight }); }

  update() { this.plot.setScale("x", { min: this.pane.view.t0, max: this.pane.view.t1 }); }

  redraw() { this.plot.redraw(); }

  // Shows the tick that the pointer is at in any of the panes; null: in none.
  point(tick) {
    const left = tick === null ? -10 : this.plot.valToPos(tick, "x");
    this.plot.setCursor({ left, top: left < 0 ? -10 : 0 });
  }

  zoomToSelection(plot) {
    const { left, width } = plot.select;
    if (width < 4) return;
    this.pane.view.show({ t0: plot.posToVal(left, "x"), t1: plot.posToVal(left + width, "x") });
    plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
  }

  drawMarks(plot) {
    const { ctx, bbox } = plot;
    const { buffers, layout } = this.pane;
    const dpr = devicePixelRatio;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, 0, bbox.width, plot.ctx.canvas.height);
    ctx.clip();
    ctx.font = `${11 * dpr}px system-ui, DejaVu Sans, sans-serif`;
    const colours = Object.fromEntries(["--mark", "--soft", "--segment", "--paper", "--ink"].map((name) => [name, cssColour(name)]));
    for (const mark of this.marks) this.drawMark(plot, mark, colours, dpr);
    const arena = plot.valToPos(layout.extentBytes, "y", true);
    ctx.strokeStyle = colours["--soft"];
    ctx.setLineDash([5 * dpr, 4 * dpr]);
    ctx.lineWidth = dpr;
    ctx.beginPath();
    ctx.moveTo(bbox.left, arena);
    ctx.lineTo(bbox.left + bbox.width, arena);
    ctx.stroke();
    ctx.fillStyle = colours["--soft"];
    ctx.textAlign = "right";
    ctx.textBaseline = "bottom";
    ctx.fillText(`${layout.extentName} ${byteText(layout.extentBytes)}`, bbox.left + bbox.width - 4 * dpr, arena - 2 * dpr);
    ctx.setLineDash([]);
    const x = plot.valToPos(buffers.peakTick + 0.5, "x", true), y = plot.valToPos(buffers.peakLiveBytes, "y", true);
    ctx.beginPath();
    ctx.arc(x, y, 4 * dpr, 0, 7);
    ctx.fillStyle = colours["--mark"];
    ctx.fill();
    ctx.restore();
    this.placeMark(x / dpr, y / dpr, (bbox.left + bbox.width) / dpr);
  }

  // A bar for a range, a line through the curve for a moment; with the name where it fits.
  drawMark(plot, { name, start, end, depth, isMoment, isFailure }, colours, dpr) {
    const { ctx, bbox } = plot;
    const left = Math.max(plot.valToPos(start, "x", true), bbox.left);
    const right = Math.min(isMoment ? Infinity : plot.valToPos(end, "x", true), bbox.left + bbox.width);
    if (right <= left) return;
    const height = MARK_ROW * dpr, top = bbox.top - height * (this.rows - depth) - 4 * dpr;
    ctx.fillStyle = colours[isFailure ? "--mark" : isMoment ? "--soft" : "--segment"];
    if (isMoment) ctx.fillRect(left, top, dpr, bbox.top + bbox.height - top);
    else ctx.fillRect(left, top, Math.max(right - left - dpr, dpr), height - 2 * dpr);
    if (isMoment && !isFailure) return;
    const room = right - left - 8 * dpr, width = ctx.measureText(name).width;
    const text = isFailure ? name : room > MARK_ROW * dpr ? fitted(ctx, name, room) : "";
    const at = left + (isFailure && width > room ? -4 * dpr - width : 4 * dpr);
    if (isFailure) {
      ctx.fillStyle = colours["--paper"];
      ctx.fillRect(at - 2 * dpr, top, width + 4 * dpr, height - 2 * dpr);
    }
    ctx.fillStyle = colours[isFailure ? "--mark" : "--ink"];
    ctx.textAlign = "left";
    ctx.textBaseline = "middle";
    ctx.fillText(text, at, top + height / 2 - dpr);
  }

  // The names of what is under the pointer.
  marksAt(event) {
    const x = event.clientX - this.plot.over.getBoundingClientRect().left;
    const tick = this.plot.posToVal(x, "x"), near = this.plot.posToVal(x + 3, "x") - tick;
    return this.marks
      .filter(({ start, end, isMoment }) => isMoment ? Math.abs(start - tick) <= near : start <= tick && tick < end)
      .map(({ name }) => name);
  }

  // The name of the peak, which leads to why it is there; on the side where there is room.
  placeMark(x, y, right) {
    const { width } = this.mark.getBoundingClientRect();
    const isSeen = x >= MARGIN.left && x <= right;
    this.mark.style.visibility = isSeen ? "visible" : "hidden";
    this.mark.style.left = `${x + width + 12 > right ? x - width - 7 : x + 7}px`;
    this.mark.style.top = `${y + 1}px`;
  }
}

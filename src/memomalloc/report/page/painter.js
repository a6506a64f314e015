// Rectangles straight into pixels. Buffers of a plan never overlap, so the work is bounded by the pixels there are, and
// 100,000 buffers take some milliseconds without a graphics card.

class Painter {
  constructor(buffers, offsets, reservesEscapes, reserved = null) {
    this.reserved = reserved;
    this.buffers = buffers;
    this.lows = Float64Array.from(offsets);
    this.highs = this.lows.map((low, i) => low + buffers.sizes[i]);
    this.reservesEscapes = reservesEscapes;
  }

  // Calls visit(i, x0, x1, y0, y1) for each buffer in view until it gives true: pixels [x0, x1) by [y0, y1), at least
  // one each way, y downwards. The largest come first, or last. No objects: there are 100,000 buffers in a frame.
  forEachInView(view, width, height, largestFirst, visit) {
    const { starts, ends, drawOrder } = this.buffers, { lows, highs } = this, { t0, t1, o0, o1 } = view;
    const perTick = width / (t1 - t0), perByte = height / (o1 - o0), count = drawOrder.length;
    for (let k = 0; k < count; k++) {
      const i = drawOrder[largestFirst ? k : count - 1 - k];
      if (ends[i] <= t0 || starts[i] >= t1 || highs[i] <= o0 || lows[i] >= o1) continue;
      let x0 = Math.floor((starts[i] - t0) * perTick), x1 = Math.floor((ends[i] - t0) * perTick);
      let y0 = height - Math.floor((highs[i] - o0) * perByte), y1 = height - Math.floor((lows[i] - o0) * perByte);
      if (x1 <= x0) x1 = x0 + 1;
      if (y1 <= y0) y0 = y1 - 1;
      if (x0 < 0) x0 = 0;
      if (y0 < 0) y0 = 0;
      if (x1 > width) x1 = width;
      if (y1 > height) y1 = height;
      if (x0 < x1 && y0 < y1 && visit(i, x0, x1, y0, y1)) return;
    }
  }

  // Draws all buffers in view; returns the boxes that a label fits into, the largest buffers first.
  paint(image, view, { groupOf, colours, mask, paper, grid, segment, labelWidth, labelHeight }) {
    const { width, height } = image;
    const pixels = new Uint32Array(image.data.buffer);
    const full = Uint32Array.from(colours, (colour) => pixel(rgb(colour)));
    const dimmed = Uint32Array.from(colours, (colour) => pixel(mix(rgb(colour), paper, 0.86)));
    pixels.fill(pixel(paper));
    this.paintGrid(pixels, view, width, height, grid);
    if (this.reserved) this.paintSegments(pixels, view, width, height, segment);
    if (this.reservesEscapes) this.paintReserved(pixels, view, width, height, { groupOf, colours, mask, paper });
    const labelled = [];
    this.forEachInView(view, width, height, true, (i, x0, x1, y0, y1) => {
      const colour = (mask !== null && mask[i] === 0 ? dimmed : full)[groupOf[i]];
      // A line of paper at the right and the top tells neighbours of one colour apart.
      const bordered = x1 - x0 >= 3 && y1 - y0 >= 3 ? 1 : 0;
      for (let y = y0 + bordered; y < y1; y++) {
        // fill() is slow to start.
        if (x1 - x0 > 16) pixels.fill(colour, y * width + x0, y * width + x1 - bordered);
        else for (let at = y * width + x0; at < y * width + x1 - bordered; at++) pixels[at] = colour;
      }
      if (x1 - x0 >= labelWidth && y1 - y0 >= labelHeight && labelled.length < 300) labelled.push({ i, x0, x1, y0, y1 });
      return false;
    });
    return labelled;
  }

  paintGrid(pixels, view, width, height, grid) {
    const row = (offset) => height - 1 - Math.floor(((offset - view.o0) * height) / (view.o1 - view.o0));
    for (const offset of grid.offsets) {
      const y = row(offset);
      if (y >= 0 && y < height) pixels.fill(grid.pixel, y * width, (y + 1) * width);
    }
  }

  // What the allocator had reserved: paper of its own, with an edge below and at both ends.
  paintSegments(pixels, view, width, height, { inside, edge }) {
    const { offsets, sizes, starts, ends } = this.reserved, { t0, t1, o0, o1 } = view;
    const perTick = width / (t1 - t0), perByte = height / (o1 - o0);
    const within = (value, most) => Math.max(0, Math.min(value, most));
    for (let i = 0; i < offsets.length; i++) {
      if (ends[i] <= t0 || starts[i] >= t1 || offsets[i] + sizes[i] <= o0 || offsets[i] >= o1) continue;
      const left = Math.floor((starts[i] - t0) * perTick), right = Math.floor((ends[i] - t0) * perTick);
      const top = height - Math.floor((offsets[i] + sizes[i] - o0) * perByte), bottom = height - Math.floor((offsets[i] - o0) * perByte);
      const x0 = within(left, width), x1 = within(Math.max(right, left + 1), width), y0 = within(top, height), y1 = within(bottom, height);
      for (let y = y0; y < y1; y++) {
        pixels.fill(y === bottom - 1 ? edge : inside, y * width + x0, y * width + x1);
        if (left === x0 && x0 < x1) pixels[y * width + x0] = edge;
        if (right === x1 && x0 < x1) pixels[y * width + x1 - 1] = edge;
      }
    }
  }

  // The place of an escape is nobody else's, even before it is alive: stripes.
  paintReserved(pixels, view, width, height, { groupOf, colours, mask, paper }) {
    for (const i of this.buffers.escapeIndices) {
      const [y0, y1] = this.rowsOf(i, view, height);
      const start = Math.floor(((this.buffers.starts[i] - view.t0) * width) / (view.t1 - view.t0));
      const x1 = Math.min(start, width);
      const stripe = pixel(mix(rgb(colours[groupOf[i]]), paper, mask && !mask[i] ? 0.9 : 0.55));
      for (let y = y0; y < y1; y++) {
        for (let x = (7 - (y % 7)) % 7; x < x1; x += 7) {
          pixels.fill(stripe, y * width + x, y * width + Math.min(x + 2, x1));
        }
      }
    }
  }

  rowsOf(i, view, height) {
    const perByte = height / (view.o1 - view.o0);
    const high = this.highs[i];
    const y0 = Math.max(0, height - Math.floor((high - view.o0) * perByte));
    return [y0, Math.min(height, height - Math.floor((this.lows[i] - view.o0) * perByte))];
  }

  // The topmost buffer at a pixel, or -1.
  at(x, y, view, width, height) {
    let found = -1;
    this.forEachInView(view, width, height, false, (i, x0, x1, y0, y1) => {
      if (x < x0 || x >= x1 || y < y0 || y >= y1) return false;
      found = i;
      return true;
    });
    return found;
  }
}

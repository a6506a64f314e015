// Rectangles straight into pixels. Buffers of a plan never overlap, so the work is bounded by the pixels there are, and
// 100,000 buffers take some milliseconds without a graphics card.

class Painter {
  constructor(buffers, offsets, reservesEscapes) {
    this.buffers = buffers;
    this.offsets = offsets;
    this.reservesEscapes = reservesEscapes;
  }

  // Pixels [x0, x1) by [y0, y1) of a buffer, at least one each way; y grows downwards. null: out of view.
  box(i, view, width, height) {
    const start = this.buffers.starts[i], end = this.buffers.ends[i];
    const low = this.offsets[i], high = low + this.buffers.sizes[i];
    if (end <= view.t0 || start >= view.t1 || high <= view.o0 || low >= view.o1) return null;
    const perTick = width / (view.t1 - view.t0), perByte = height / (view.o1 - view.o0);
    let x0 = Math.floor((start - view.t0) * perTick), x1 = Math.floor((end - view.t0) * perTick);
    let y0 = height - Math.floor((high - view.o0) * perByte), y1 = height - Math.floor((low - view.o0) * perByte);
    if (x1 <= x0) x1 = x0 + 1;
    if (y1 <= y0) y0 = y1 - 1;
    x0 = Math.max(x0, 0); y0 = Math.max(y0, 0); x1 = Math.min(x1, width); y1 = Math.min(y1, height);
    return x0 < x1 && y0 < y1 ? { x0, x1, y0, y1 } : null;
  }

  // Draws all buffers in view; returns the boxes that a label fits into, the largest buffers first.
  paint(image, view, { groupOf, colours, mask, paper, grid, labelWidth, labelHeight }) {
    const { width, height } = image;
    const pixels = new Uint32Array(image.data.buffer);
    const paperPixel = pixel(paper);
    const full = colours.map((colour) => pixel(rgb(colour)));
    const dimmed = colours.map((colour) => pixel(mix(rgb(colour), paper, 0.86)));
    pixels.fill(paperPixel);
    this.paintGrid(pixels, view, width, height, grid);
    if (this.reservesEscapes) this.paintReserved(pixels, view, width, height, { groupOf, colours, mask, paper });
    const labelled = [];
    const { drawOrder } = this.buffers;
    for (let k = 0; k < drawOrder.length; k++) {
      const i = drawOrder[k];
      const box = this.box(i, view, width, height);
      if (!box) continue;
      const { x0, x1, y0, y1 } = box;
      const colour = (mask && !mask[i] ? dimmed : full)[groupOf[i]];
      // A line of paper at the right and the top tells neighbours of one colour apart.
      const bordered = x1 - x0 >= 3 && y1 - y0 >= 3 ? 1 : 0;
      for (let y = y0 + bordered; y < y1; y++) pixels.fill(colour, y * width + x0, y * width + x1 - bordered);
      if (x1 - x0 >= labelWidth && y1 - y0 >= labelHeight && labelled.length < 300) labelled.push({ i, ...box });
    }
    return labelled;
  }

  paintGrid(pixels, view, width, height, grid) {
    const row = (offset) => height - 1 - Math.floor(((offset - view.o0) * height) / (view.o1 - view.o0));
    for (const offset of grid.offsets) {
      const y = row(offset);
      if (y >= 0 && y < height) pixels.fill(grid.pixel, y * width, (y + 1) * width);
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
    const high = this.offsets[i] + this.buffers.sizes[i];
    const y0 = Math.max(0, height - Math.floor((high - view.o0) * perByte));
    return [y0, Math.min(height, height - Math.floor((this.offsets[i] - view.o0) * perByte))];
  }

  // The topmost buffer at a pixel, or -1.
  at(x, y, view, width, height) {
    const { drawOrder } = this.buffers;
    for (let k = drawOrder.length - 1; k >= 0; k--) {
      const box = this.box(drawOrder[k], view, width, height);
      if (box && box.x0 <= x && x < box.x1 && box.y0 <= y && y < box.y1) return drawOrder[k];
    }
    return -1;
  }
}

// The buffers of one trace or plan: columns, who asked for each, groups, the curve of live bytes.

const UNKNOWN = "(unknown)", NO_MODULE = "(no module)", ONE_THREAD = "(one thread)";
const SIZE_CLASSES = ["up to 1 KiB", "1 to 16 KiB", "16 to 64 KiB", "64 to 256 KiB", "256 KiB to 1 MiB", "1 to 4 MiB",
  "4 to 16 MiB", "16 to 64 MiB", "above 64 MiB"];
const SIZE_LIMITS = [2 ** 10, 2 ** 14, 2 ** 16, 2 ** 18, 2 ** 20, 2 ** 22, 2 ** 24, 2 ** 26, Infinity];

class Buffers {
  constructor(table, texts) {
    this.length = table.sizes.length;
    this.sizes = Float64Array.from(table.sizes);
    this.starts = Float64Array.from(table.starts);
    this.ends = Float64Array.from(table.ends);
    this.escapes = new Uint8Array(this.length);
    for (const i of table.escapes) this.escapes[i] = 1;
    this.escapeIndices = table.escapes;
    this.asker = Int32Array.from(table.asker);
    this.occurrence = table.occurrence;
    this.askers = table.askers.map(([operators, module, source, role, thread]) => {
      const asker = {
        operators: operators.map((text) => texts[text]),
        module: texts[module],
        source: source && { file: texts[source[0]], line: source[1], function: texts[source[2]] },
        role: texts[role],
        thread: texts[thread],
      };
      asker.operator = asker.operators[asker.operators.length - 1] || UNKNOWN;
      asker.sourceText = asker.source ? `${asker.source.file}:${asker.source.line}` : UNKNOWN;
      asker.searched = [...asker.operators, asker.module, asker.sourceText, asker.source?.function, asker.role, asker.thread]
        .join("\n").toLowerCase();
      return asker;
    });
    this.moduleDepth = table.moduleDepth;
    this.peakTick = table.peakTick;
    this.peakLiveBytes = table.peakLiveBytes;
    this.advice = table.advice;
    this.firstTick = this.starts.reduce((least, start) => Math.min(least, start), this.length ? Infinity : 0);
    this.endTick = this.ends.reduce((most, end) => Math.max(most, end), this.firstTick + 1);
    // Large ones first, so that small ones are drawn above them.
    this.drawOrder = Uint32Array.from(this.sizes.keys()).sort((a, b) => this.sizes[b] - this.sizes[a]);
    this.aliveAtPeak = [...this.drawOrder].filter((i) => this.isAliveAt(i, this.peakTick));
    this.givenCurve = table.curve;
    this.totalBytes = this.sizes.reduce((sum, size) => sum + size, 0);
  }

  get hasOrigins() { return this.askers.length > 0; }

  get hasThreads() { return this.askers.some((asker) => asker.thread); }

  isAliveAt(i, tick) { return this.starts[i] <= tick && tick < this.ends[i]; }

  askerOf(i) { return this.asker[i] < 0 ? null : this.askers[this.asker[i]]; }

  // A name that is short enough for a rectangle or the head of a list.
  nameOf(i) {
    const asker = this.askerOf(i);
    return asker ? asker.operator.replace(/^\w+::|^torch\..*\.(?=\w+$)/, "") : `buffer ${i}`;
  }

  deepestModule() { return this.askers.reduce((most, asker) => Math.max(most, asker.module.split(".").length), 1); }

  // The name of each buffer's group, as an index into a list of names.
  groupNames(by, depth) {
    if (by === "size") {
      const of = Int32Array.from(this.sizes, (size) => SIZE_LIMITS.findIndex((limit) => size <= limit));
      return { names: SIZE_CLASSES, of };
    }
    const name = {
      module: (asker) => asker.module.split(".").slice(0, depth || undefined).join(".") || NO_MODULE,
      operator: (asker) => asker.operator,
      role: (asker) => asker.role,
      thread: (asker) => asker.thread || ONE_THREAD,
      source: (asker) => asker.sourceText,
    }[by];
    const indices = new Map([[UNKNOWN, 0]]);
    const ofAsker = this.askers.map((asker) => {
      const text = name(asker);
      if (!indices.has(text)) indices.set(text, indices.size);
      return indices.get(text);
    });
    return { names: [...indices.keys()], of: Int32Array.from(this.asker, (asker) => (asker < 0 ? 0 : ofAsker[asker])) };
  }

  // 1 for each buffer whose origin contains every word.
  search(text) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const found = this.askers.map((asker) => (words.every((word) => asker.searched.includes(word)) ? 1 : 0));
    return Uint8Array.from(this.asker, (asker) => (asker < 0 ? 0 : found[asker]));
  }

  // The corners of the step function: [ticks, live bytes].
  curve() {
    if (this._curve) return this._curve;
    if (this.givenCurve) {
      // Steps as corners: each value lasts until the next tick.
      const [ticks, ...columns] = this.givenCurve;
      const corners = (values, atStart) => values.flatMap((value, i) => (i ? [atStart ? value : values[i - 1], value] : [value]));
      this._curve = [corners(ticks, true), ...columns.map((values) => corners(values, false))];
      return this._curve;
    }
    const byStart = Uint32Array.from(this.starts.keys()).sort((a, b) => this.starts[a] - this.starts[b]);
    const byEnd = Uint32Array.from(this.ends.keys()).sort((a, b) => this.ends[a] - this.ends[b]);
    const ticks = [this.firstTick], live = [0];
    let bytes = 0, begun = 0, ended = 0;
    while (ended < this.length) {
      const tick = Math.min(begun < this.length ? this.starts[byStart[begun]] : Infinity, this.ends[byEnd[ended]]);
      ticks.push(tick); live.push(bytes);
      while (begun < this.length && this.starts[byStart[begun]] === tick) bytes += this.sizes[byStart[begun++]];
      while (ended < this.length && this.ends[byEnd[ended]] === tick) bytes -= this.sizes[byEnd[ended++]];
      ticks.push(tick); live.push(bytes);
    }
    this._curve = [ticks, live];
    return this._curve;
  }

  liveBytesAt(tick) { return this.valueAt(tick, 1); }

  // Null where it is not known what was reserved.
  reservedBytesAt(tick) { return this.curve().length > 2 ? this.valueAt(tick, 2) : null; }

  valueAt(tick, series) {
    const curve = this.curve(), ticks = curve[0];
    let low = 0, high = ticks.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (ticks[middle] <= tick) low = middle + 1; else high = middle;
    }
    return curve[series][low - 1] ?? 0;
  }
}

// The part of time and offsets that all panes show.

class View {
  constructor(firstTick, endTick, extentBytes) {
    this.limits = { t0: firstTick, t1: endTick, o0: 0, o1: extentBytes * 1.02 || 1 };
    this.listeners = [];
    this.fit();
  }

  onChange(listener) { this.listeners.push(listener); }

  fit() { this.show(this.limits); }

  // As much of the wanted part as there is; never less than two ticks or 64 bytes.
  show({ t0 = this.t0, t1 = this.t1, o0 = this.o0, o1 = this.o1 }) {
    [this.t0, this.t1] = View.within(t0, t1, this.limits.t0, this.limits.t1, 2);
    [this.o0, this.o1] = View.within(o0, o1, this.limits.o0, this.limits.o1, 64);
    for (const listener of this.listeners) listener();
  }

  static within(low, high, least, most, smallest) {
    const length = Math.min(Math.max(high - low, smallest), most - least);
    const start = Math.min(Math.max((low + high - length) / 2, least), most - length);
    return [start, start + length];
  }

  zoom(timeFactor, offsetFactor, tick = (this.t0 + this.t1) / 2, offset = (this.o0 + this.o1) / 2) {
    this.show({
      t0: tick - (tick - this.t0) * timeFactor, t1: tick + (this.t1 - tick) * timeFactor,
      o0: offset - (offset - this.o0) * offsetFactor, o1: offset + (this.o1 - offset) * offsetFactor,
    });
  }

  pan(timeShare, offsetShare) {
    const ticks = (this.t1 - this.t0) * timeShare, bytes = (this.o1 - this.o0) * offsetShare;
    this.show({ t0: this.t0 + ticks, t1: this.t1 + ticks, o0: this.o0 + bytes, o1: this.o1 + bytes });
  }
}

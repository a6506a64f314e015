// Numbers as people read them, and where to put the marks of an axis.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

function byteText(bytes) {
  let value = Math.abs(bytes), unit = 0;
  // 1023.95 would be rounded to "1024".
  while (value >= 1023.5 && unit < UNITS.length - 1) { value /= 1024; unit++; }
  const digits = unit === 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return `${bytes < 0 ? "-" : ""}${value.toFixed(digits)} ${UNITS[unit]}`;
}

const count = (number) => number.toLocaleString("en-US");

// An axis needs no false digits: "4 MiB", not "4.00 MiB".
const byteMark = (bytes) => byteText(bytes).replace(/\.0+ /, " ").replace(/(\.\d*[1-9])0+ /, "$1 ");

function marks(low, high, step) {
  const found = [];
  // Zooming leaves 1e-10 where 0 was; + 0 turns -0 into 0.
  for (let at = Math.ceil(low / step - 1e-6) * step + 0; at <= high; at += step) found.push(at);
  return found;
}

// Powers of two for bytes.
const byteMarks = (low, high, atMost) => marks(low, high, Math.max(1, 2 ** Math.ceil(Math.log2((high - low) / atMost))));

// 1, 2 and 5 times powers of ten for ticks.
function tickMarks(low, high, atMost) {
  const least = Math.max(1, (high - low) / atMost);
  const power = 10 ** Math.floor(Math.log10(least));
  return marks(low, high, power * [1, 2, 5, 10].find((factor) => factor * power >= least));
}

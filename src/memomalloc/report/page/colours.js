// Colours that people with any colour vision can tell apart: Paul Tol's "muted" on light paper; on dark paper brighter
// ones of the same hues in the same order, so that a group keeps its hue. The ordered viridis is for sizes. Groups beyond
// the palette share its colours, paler.

const PALETTES = {
  light: ["#332288", "#ddcc77", "#44aa99", "#cc6677", "#88ccee", "#882255", "#117733", "#aa4499", "#999933"],
  dark: ["#7280de", "#c1c766", "#0da18e", "#ff7fad", "#6dcbf8", "#ce456d", "#64954b", "#bf75bd", "#a48c24"],
};
const VIRIDIS = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"];

const rgb = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
const hex = (colour) => `#${colour.map((value) => value.toString(16).padStart(2, "0")).join("")}`;
// As the bytes of an ImageData lie in memory (little endian).
const pixel = ([red, green, blue]) => ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
const mix = (one, other, share) => one.map((value, i) => Math.round(value * (1 - share) + other[i] * share));
const isBright = ([red, green, blue]) => 0.299 * red + 0.587 * green + 0.114 * blue > 115;

function groupColours(numGroups, by, theme) {
  if (by === "size") return VIRIDIS;
  const palette = PALETTES[theme], paper = rgb(cssColour("--paper"));
  const paler = palette.map((colour) => hex(mix(rgb(colour), paper, 0.5)));
  return Array.from({ length: numGroups }, (_, rank) => palette[rank] ?? paler[rank % paler.length]);
}

const cssColour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

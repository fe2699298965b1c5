// Numbers as pictures, in the colours of the page.

/** Paints numbers on a canvas: ink for what is not zero, in one colour for positive and in another for negative ones. */
export function paint(canvas, numbers, width, height, most = Math.max(1e-9, ...numbers.map(Math.abs))) {
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext('2d'), image = context.createImageData(width, height);
  const colours = [colourOf(canvas, '--positive'), colourOf(canvas, '--negative')];
  numbers.forEach((number, i) => {
    image.data.set(colours[number < 0 ? 1 : 0], 4 * i);
    image.data[4 * i + 3] = 255 * Math.sqrt(Math.min(1, Math.abs(number) / most));
  });
  context.putImageData(image, 0, 0);
}

function colourOf(element, name) {
  const value = getComputedStyle(element).getPropertyValue(name).trim();
  return [1, 3, 5].map((at) => parseInt(value.slice(at, at + 2), 16));
}

/** A histogram as SVG: of how many numbers lie where, whose heights are roots, so that a few are seen beside many. */
export function histogram(numbers, bins = 64) {
  const finite = numbers.filter(Number.isFinite);
  const [least, most] = finite.reduce(([a, b], n) => [Math.min(a, n), Math.max(b, n)], [Infinity, -Infinity]);
  const counts = new Array(bins).fill(0);
  const bin = (number) => most > least ? Math.min(bins - 1, Math.floor((number - least) / (most - least) * bins)) : bins >> 1;
  for (const number of finite) counts[bin(number)]++;
  const highest = Math.max(1, ...counts);
  const bars = counts.map((count, i) => {
    const height = count ? Math.max(0.6, 20 * Math.sqrt(count / highest)) : 0;
    return `<rect x="${i}" y="${(20 - height).toFixed(2)}" width=".8" height="${height.toFixed(2)}"/>`;
  });
  const svg = `<svg viewBox="0 0 ${bins} 20" preserveAspectRatio="none" aria-hidden="true">${bars.join('')}</svg>`;
  return { svg, least, most };
}

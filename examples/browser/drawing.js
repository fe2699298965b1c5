// The pad that digits are drawn on, and what of a drawing a network trained on MNIST expects to see.

const SIDE = 280, BRUSH = 22;

/** Lets a pointer draw on a canvas, and calls back after each change. */
export function makePad(canvas, onChange) {
  canvas.width = canvas.height = SIDE;
  const context = canvas.getContext('2d', { willReadFrequently: true });
  let last = null, isSample = false;

  const clear = () => {
    context.clearRect(0, 0, SIDE, SIDE);
    isSample = false;
    onChange();
  };
  const stroke = (draw) => {
    Object.assign(context, { lineWidth: BRUSH, lineCap: 'round', lineJoin: 'round', strokeStyle: '#000' });
    context.beginPath();
    draw(context);
    context.stroke();
    onChange();
  };
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) * SIDE / box.width, (event.clientY - box.top) * SIDE / box.height];
  };
  const draw = (to) => {
    stroke((path) => { path.moveTo(...last); path.lineTo(...to); });
    last = to;
  };
  canvas.addEventListener('pointerdown', (event) => {
    if (isSample) clear();
    canvas.setPointerCapture(event.pointerId);
    draw(last = at(event));
  });
  canvas.addEventListener('pointermove', (event) => {
    if (last) for (const step of event.getCoalescedEvents?.() ?? [event]) draw(at(step));
  });
  for (const end of ['pointerup', 'pointercancel']) canvas.addEventListener(end, () => { last = null; });

  // A digit to begin with, which the first stroke takes the place of.
  const sample = () => {
    clear();
    stroke((path) => {
      path.moveTo(88, 84);
      path.bezierCurveTo(110, 32, 196, 44, 186, 98);
      path.bezierCurveTo(180, 126, 150, 136, 128, 137);
      path.bezierCurveTo(164, 134, 200, 156, 194, 190);
      path.bezierCurveTo(186, 246, 100, 250, 80, 206);
    });
    isSample = true;
  };
  return { clear, sample, pixels: () => normalised(context.getImageData(0, 0, SIDE, SIDE).data) };
}

// MNIST's digits fit into 20 x 20 pixels, and their centres of mass lie in the middle of 28 x 28.
function normalised(rgba) {
  const ink = (x, y) => rgba[4 * (y * SIDE + x) + 3] / 255;
  let left = SIDE, right = -1, top = SIDE, bottom = -1, mass = 0, massX = 0, massY = 0;
  for (let y = 0; y < SIDE; ++y) {
    for (let x = 0; x < SIDE; ++x) {
      const amount = ink(x, y);
      if (amount === 0) continue;
      [left, right, top, bottom] = [Math.min(left, x), Math.max(right, x), Math.min(top, y), Math.max(bottom, y)];
      mass += amount;
      massX += amount * (x + 0.5);
      massY += amount * (y + 0.5);
    }
  }
  const pixels = new Float32Array(28 * 28);
  if (mass === 0) return pixels;
  const scale = 20 / Math.max(right - left + 1, bottom - top + 1, 4 * BRUSH);
  for (let y = top; y <= bottom; ++y) {
    for (let x = left; x <= right; ++x) {
      const amount = ink(x, y) * scale * scale;
      const column = Math.floor(14 + (x + 0.5 - massX / mass) * scale);
      const row = Math.floor(14 + (y + 0.5 - massY / mass) * scale);
      if (amount > 0 && 0 <= column && column < 28 && 0 <= row && row < 28) pixels[row * 28 + column] += amount;
    }
  }
  return pixels.map((pixel) => Math.min(1, pixel));
}

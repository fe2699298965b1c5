// The page: a digit is drawn, and everything that depends on it is shown again.
import { metaq } from './metaq.js';
import { decoderBytes, modelBytes } from './assets.js';
import { lenet5 } from './lenet5.js';
import { makePad } from './drawing.js';
import { paint } from './pictures.js';
import { look } from './inside.js';

const at = (id) => document.getElementById(id);
const digits = Array.from({ length: 10 }, (_, digit) => digit);

await metaq.init(await decoderBytes());
const tensors = await metaq.load(modelBytes);
const weights = [...tensors.values()];

at('bars').append(...digits.map((digit) => {
  const bar = document.createElement('li');
  bar.innerHTML = `<span>${digit}</span><meter min="0" max="1" value="0"></meter><output></output>`;
  return bar;
}));
const filters = digits.slice(0, 6).map(() => {
  const figure = document.createElement('figure');
  figure.innerHTML = '<canvas class="filter"></canvas><canvas class="map"></canvas>';
  return figure;
});
at('filters').append(...filters);

let isWaiting = false;
const pad = makePad(at('pad'), () => {
  if (!isWaiting) requestAnimationFrame(show);
  isWaiting = true;
});
at('clear').onclick = pad.clear;

function show() {
  isWaiting = false;
  const pixels = pad.pixels(), isEmpty = pixels.every((pixel) => pixel === 0);
  const { maps, probabilities } = lenet5(tensors, pixels);
  const best = probabilities.indexOf(Math.max(...probabilities));
  paint(at('seen'), [...pixels], 28, 28, 1);
  at('answer').textContent = isEmpty ? '?' : best;
  [...at('bars').children].forEach((bar, digit) => {
    const probability = isEmpty ? 0 : probabilities[digit];
    bar.classList.toggle('best', !isEmpty && digit === best);
    bar.children[1].value = probability;
    bar.children[2].textContent = `${(100 * probability).toFixed(1)} %`;
  });
  filters.forEach((figure, i) => {
    paint(figure.lastChild, isEmpty ? new Array(576).fill(0) : [...maps.subarray(576 * i, 576 * (i + 1))], 24, 24);
  });
}

// What stays as it is, but for the colours.
function showNetwork() {
  const kernels = tensors.get('conv1.weight').data;
  filters.forEach((figure, i) => paint(figure.firstChild, [...kernels.subarray(25 * i, 25 * (i + 1))], 5, 5, 1.5));
  for (const canvas of document.querySelectorAll('#weights canvas')) {
    const { data, shape } = tensors.get(canvas.dataset.tensor);
    paint(canvas, [...data], data.length / shape[0], shape[0], 0.3);
  }
}

const count = weights.reduce((sum, { data }) => sum + data.length, 0);
const used = weights.reduce((sum, { data }) => sum + data.filter((weight) => weight !== 0).length, 0);
at('used').textContent = used.toLocaleString('en');
at('count').textContent = count.toLocaleString('en');
at('download').href = URL.createObjectURL(new Blob([modelBytes]));

const lookAt = async (file) => look(new Uint8Array(await file.arrayBuffer()), file.name, at('summary'), at('tensors'));
at('choose').onchange = ({ target }) => target.files[0] && lookAt(target.files[0]);
addEventListener('dragover', (event) => event.preventDefault());
addEventListener('drop', (event) => {
  event.preventDefault();
  if (event.dataTransfer.files[0]) lookAt(event.dataTransfer.files[0]);
});
matchMedia('(prefers-color-scheme: dark)').onchange = () => { showNetwork(); show(); };

showNetwork();
pad.sample();
await look(modelBytes, 'lenet5-mnist.mtq', at('summary'), at('tensors'));
document.body.dataset.isReady = 'true';

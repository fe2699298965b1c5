// What is inside of any .mtq file: a row for each tensor.
import { metaq } from './metaq.js';
import { histogram } from './pictures.js';

/** Fills a list with the tensors of a file, and says in a sentence what it is. */
export async function look(bytes, name, summary, list) {
  list.replaceChildren();
  let file;
  try {
    file = await metaq.safeOpen(bytes);
    const rows = [];
    for (const entry of file.tensors) rows.push(await row(entry, await file.get(entry.name, { widen: true })));
    shareBytes(rows);
    list.append(...rows.map(element));
    const elements = rows.reduce((sum, { entry }) => sum + entry.size, 0);
    const raw = rows.reduce((sum, { entry }) => sum + entry.sizeBytes, 0);
    summary.textContent = `${name}: ${number(bytes.length)} bytes for ${number(elements)} numbers in ` +
      `${number(rows.length)} tensors, ${(raw / bytes.length).toPrecision(3)} times smaller than without compression.`;
  } catch (error) {
    summary.textContent = `${name}: ${error.message}.`;
  } finally {
    file?.close();
  }
}

const number = (value) => Math.round(value).toLocaleString('en');

function row(entry, { data }) {
  const numbers = Array.from(data, Number), counts = new Map();
  for (const value of numbers) counts.set(value, (counts.get(value) ?? 0) + 1);
  let bits = 0;
  for (const count of counts.values()) bits -= count * Math.log2(count / numbers.length);
  return { entry, numbers, bits: bits + 1, distinct: counts.size, zeros: counts.get(0) ?? 0 };
}

// Tensors share chunks. The bytes of those that lie in the same ones are shared out by the entropy of their values.
function shareBytes(rows) {
  const total = new Map(), key = ({ entry }) => `${entry.beginByte} ${entry.endByte}`;
  for (const row of rows) total.set(key(row), (total.get(key(row)) ?? 0) + row.bits);
  for (const row of rows) row.bytes = (row.entry.endByte - row.entry.beginByte) * row.bits / total.get(key(row));
}

function element({ entry, numbers, bytes, distinct, zeros }) {
  const item = document.createElement('li'), { svg, least, most } = histogram(numbers);
  const used = numbers.length - zeros;
  item.innerHTML = `<b></b><span class="shape">${entry.shape.join(' × ') || 'one number'} · ${entry.dtype}</span>
    <span class="histogram">${svg}<small><i>${short(least)}</i><i>${short(most)}</i></small></span>
    <span class="bytes"><b>${number(bytes)}</b> bytes
    <small>${number(distinct)} value${distinct === 1 ? '' : 's'}, ${number(used)} not 0</small></span>`;
  item.firstChild.textContent = entry.name;
  return item;
}

const short = (value) => Number.isFinite(value) ? Number(value.toPrecision(3)).toString() : '';

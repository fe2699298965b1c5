// node in_node.mjs PACKAGE MODULES: reads a list of [function, ...arguments] as JSON, and writes what the functions give.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { describe, described, inPieces } from './describe.mjs';

const [, , folder, modules] = process.argv;
const metaq = await import(pathToFileURL(`${folder}/metaq.js`));
await metaq.init(...modules.split(',').map((name) => readFileSync(`${folder}/dist/metaq.${name}.wasm`)));

const functions = {
  describe: (...given) => describe(metaq, ...given),

  // Milliseconds that the fastest loading of a file takes of those within some seconds.
  async fastest(path, seconds) {
    const bytes = readFileSync(path), end = performance.now() + 1000 * seconds;
    let least = Infinity;
    while (performance.now() < end) {
      const start = performance.now();
      await metaq.load(bytes);
      least = Math.min(least, performance.now() - start);
    }
    return least;
  },

  async checksums(path) {
    const tensors = [...(await metaq.load(readFileSync(path))).values()];
    return tensors.map(({ data }) => createHash('sha256').update(new Uint8Array(data.buffer)).digest('hex'));
  },

  // Of a file that arrives in pieces: how many elements, and how much memory decoding it took.
  async streamed(path) {
    let elements = 0;
    for await (const { data } of metaq.stream(inPieces(readFileSync(path), 4096))) elements += data.length;
    return { elements, memoryBytes: await metaq.memoryBytes() };
  },

  // Some rows of a tensor behind an address.
  async rows(url, name, rows) {
    const file = await metaq.safeOpen(url);
    const tensor = described(await file.get(name, { rows }));
    file.close();
    return tensor;
  },

  async widened(base64) {
    const tensors = await metaq.load(Buffer.from(base64, 'base64'), { widen: true });
    return [...tensors.values()].map(described);
  },

  async metadata(base64) {
    const file = await metaq.safeOpen(Buffer.from(base64, 'base64'));
    const { metadata, names } = file;
    file.close();
    return { metadata, names };
  },
};

const results = [];
for (const [name, ...given] of JSON.parse(readFileSync(0, 'utf8'))) results.push(await functions[name](...given));
process.stdout.write(JSON.stringify(results));

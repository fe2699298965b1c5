// node read.mjs FILE.mtq: what a file holds, its first tensor, some rows of it, and all tensors as their bytes arrive.
import { readFile } from 'node:fs/promises';
import { load, safeOpen, stream } from 'metaq';

const bytes = await readFile(process.argv[2]);

const tensors = await load(bytes, { widen: true });
for (const [name, { dtype, shape, data }] of tensors) console.log(name, dtype, shape, data.length);

const file = await safeOpen(bytes);
const { data } = await file.get(file.names[0], { rows: [0, 1] });
console.log(file.metadata, data.length);
file.close();

const body = new Blob([bytes]).stream();
for await (const { name, data } of stream(body)) console.log(name, data.length);

try {
  await load(bytes.subarray(0, bytes.length - 1));
} catch (error) {
  console.log(error.status, error.message);
}

// What tsc --strict has to take: every name of the package, as a program in TypeScript uses it.
import { hasSimd, init, load, loadInWorker, memoryBytes, MetaqError, safeOpen, stream, widen } from '../../wasm/metaq.js';
import type { MetaqFile, Source, Tensor, TensorInfo } from '../../wasm/metaq.js';

async function use(source: Source): Promise<number> {
  if (hasSimd()) await init('metaq.plain.wasm', 'metaq.simd.wasm');
  const tensors: Map<string, Tensor> = await load(source, { widen: true, takeDifferences: true });
  const file: MetaqFile = await safeOpen(new URL('https://example.org/model.mtq'));
  const first: TensorInfo = file.tensors[0];
  const { data } = widen(await file.get(first.name, { rows: [0, 1] }));
  for await (const { name, shape } of stream(await fetch('model.mtq'))) console.log(name, shape.length);
  file.close();
  return data.length + tensors.size + (await loadInWorker(source)).size + (await memoryBytes());
}

use('model.mtq').catch((error) => { if (error instanceof MetaqError) console.log(error.status, error.place.chunk); });

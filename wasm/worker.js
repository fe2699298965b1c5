// The thread of `loadInWorker`: one file, whose tensors are handed over without a copy.
import { init, load } from './metaq.js';

onmessage = async ({ data: { modules, source, options } }) => {
  try {
    await init(...modules);
    const tensors = await load(source, options);
    postMessage({ tensors }, [...tensors.values()].map(({ data }) => data.buffer));
  } catch ({ status, message, place }) {
    postMessage({ error: { status, message, place } });
  }
};

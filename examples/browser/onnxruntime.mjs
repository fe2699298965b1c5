// A session of onnxruntime-web whose weights come from a .mtq file. The model is one whose tensors lie in files of their names:
// onnx.save(model, "model.onnx", save_as_external_data=True, all_tensors_to_one_file=False, size_threshold=0).
import { loadInWorker } from 'metaq';
import { InferenceSession } from 'onnxruntime-web';

export async function createSession(model, weights) {
  const tensors = await loadInWorker(weights);
  const externalData = [...tensors].map(([path, { data }]) => ({ path, data: new Uint8Array(data.buffer) }));
  return InferenceSession.create(model, { externalData });
}

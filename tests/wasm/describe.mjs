// What the package makes of files, for tests in Node and in browsers: everything a tensor has, or what is wrong.

export async function describe(metaq, base64, pieceBytes) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  try {
    const tensors = [];
    if (pieceBytes) for await (const tensor of metaq.stream(inPieces(bytes, pieceBytes))) tensors.push(tensor);
    else tensors.push(...(await metaq.load(bytes)).values());
    return { tensors: tensors.map(described) };
  } catch (error) {
    return error instanceof metaq.MetaqError ? { status: error.status, words: error.message } : { trap: `${error}` };
  }
}

export function described({ name, dtype, shape, data }) {
  const hex = Array.from(new Uint8Array(data.buffer), (byte) => byte.toString(16).padStart(2, '0')).join('');
  return { name, dtype, shape, hex };
}

export function inPieces(bytes, pieceBytes) {
  let next = 0;
  return new ReadableStream({
    pull(controller) {
      if (next >= bytes.length) return controller.close();
      controller.enqueue(bytes.slice(next, next + pieceBytes));
      next += pieceBytes;
    },
  });
}

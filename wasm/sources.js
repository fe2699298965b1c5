// Where the bytes of a file come from: memory, a stream, or ranges that a server gives. The decoder asks for bytes by `copy`, which
// may not wait; so whoever decodes first waits for them by `arrived`.

/** The source of bytes, a Blob, a Response, a ReadableStream, or a URL; of a URL by ranges if they are wanted. */
export async function openSource(source, byRanges) {
  if (source instanceof ArrayBuffer) return new Memory(new Uint8Array(source));
  if (ArrayBuffer.isView(source)) return new Memory(new Uint8Array(source.buffer, source.byteOffset, source.byteLength));
  if (source instanceof ReadableStream) return new Stream(source);
  if (source instanceof Blob) return new Stream(source.stream());
  if (byRanges && !(source instanceof Response)) return new Ranges(source);
  const { body } = checked(source instanceof Response ? source : await fetch(source));
  return new Stream(body ?? new Blob([]).stream());
}

function checked(response) {
  if (response.ok) return response;
  throw new Error(`${response.url}: expected a .mtq file, found HTTP status ${response.status}`);
}

// Bytes of a file in pieces that neither overlap nor, between two that are asked for together, leave a gap.
class Pieces {
  size = -1;  // of the file; not known yet
  wanted = 0;  // the end of the bytes that were asked for last and not there
  held = [];

  add(begin, bytes) {
    this.held.push({ begin, end: begin + bytes.length, bytes });
    this.held.sort((a, b) => a.begin - b.begin);
  }

  has(begin, end) {
    let next = begin;
    for (const piece of this.held) {
      if (piece.begin <= next && next < piece.end) next = piece.end;
    }
    return next >= end;
  }

  /** Whether the bytes were there, which then are in `target`. */
  copy(offset, target) {
    const end = offset + target.length;
    if (!this.has(offset, end)) {
      this.wanted = end;
      return false;
    }
    for (const piece of this.held) {
      const first = Math.max(piece.begin, offset), last = Math.min(piece.end, end);
      if (first < last) target.set(piece.bytes.subarray(first - piece.begin, last - piece.begin), first - offset);
    }
    return true;
  }

  keep() {}
  release() {}
  cancel() {}
}

class Memory extends Pieces {
  constructor(bytes) {
    super();
    this.add(0, bytes);
    this.size = bytes.length;
  }

  async arrived() {}
}

// The header, and what lies before this, is read again when the end of a stream has come.
const KEPT_BYTES = 4096;

class Stream extends Pieces {
  #reader;
  #count = 0;  // of bytes that have come
  #keptEnd = Infinity;

  constructor(stream) {
    super();
    this.#reader = stream.getReader();
  }

  async arrived(_, end) {
    while (this.#count < end && this.size < 0) {
      const { done, value } = await this.#reader.read();
      if (done) {
        this.size = this.#count;
      } else {
        this.add(this.#count, value);
        this.#count += value.length;
      }
    }
  }

  keep(headerEnd) { this.#keptEnd = Math.max(headerEnd, KEPT_BYTES); }

  /** Bytes before this one are not asked for any more. */
  release(before) { this.held = this.held.filter(({ begin, end }) => end > before || begin < this.#keptEnd); }

  /** What has come is all that there is. */
  finish() { this.size = this.#count; }

  cancel() { this.#reader.cancel().catch(() => {}); }
}

const FIRST_RANGE = 65536;

class Ranges extends Pieces {
  #url;

  constructor(url) {
    super();
    this.#url = url;
  }

  async arrived(begin, end) {
    if (this.size >= 0) end = Math.min(end, this.size);
    if (this.has(begin, end)) return;
    const last = (begin === 0 ? Math.max(end, FIRST_RANGE) : end) - 1;
    let response = checked(await fetch(this.#url, { headers: { Range: `bytes=${begin}-${last}` } }));
    const size = Number(response.headers.get('Content-Range')?.split('/')[1]);  // which other origins may not show
    if (response.status === 206 && !Number.isInteger(size)) response = checked(await fetch(this.#url));
    const bytes = new Uint8Array(await response.arrayBuffer());
    const isWhole = response.status !== 206;
    this.add(isWhole ? 0 : begin, bytes);
    this.size = isWhole ? bytes.length : size;
  }
}

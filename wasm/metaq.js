// Reads `.mtq` files in browsers, workers and Node. What is exported is described in metaq.d.ts.
//
// The decoder is metaq.h in WebAssembly. It reads a file through `Source.copy`, chunk by chunk as tensors are decoded, so that
// nothing but one group of tensors is in its memory; what it gives is copied out, for its memory moves when it grows.

import { openSource } from './sources.js';

// i8x16.popcnt of a vector: a module that engines without vectors refuse.
const SIMD_MODULE = [
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11,
];
const ARRAYS = {
  float32: Float32Array, float16: Uint16Array, bfloat16: Uint16Array, float64: Float64Array,
  float8_e4m3fn: Uint8Array, float8_e5m2: Uint8Array, bool: Uint8Array,
  uint8: Uint8Array, int8: Int8Array, int16: Int16Array, int32: Int32Array, int64: BigInt64Array,
};
const NO_MEMORY = 52, READ_FAILED = 54;
const OUTPUT_BYTES = 32;
// Of metaq.simd.wasm: its functions in the order in which the decoder takes them, and where build.py has put its stack.
const LOOPS = ['decode_steps', 'decode_free_band', 'decode_dependent_band', 'decode_free_row', 'decode_dependent_row'];
const STACK_END = 0x50000;
const utf8 = new TextDecoder();

/** What is wrong with a file, or with a call: the message is that of metaq.h. */
export class MetaqError extends Error {
  constructor(status, message, place = {}) {
    super(message);
    Object.assign(this, { name: 'MetaqError', status, place });
  }
}

let decoder;  // a promise of the one decoder

/** Takes modules from elsewhere than beside this one, as bytes, URLs, or compiled: the decoder, and its loops with vectors or none. */
export async function init(...given) {
  decoder = Decoder.create(...(given.length ? given : ownModules()));
  decoder.catch(() => { decoder = undefined; });
  await decoder;
}

// Addresses that bundlers find.
function ownModules() {
  const plain = new URL('./dist/metaq.plain.wasm', import.meta.url);
  return hasSimd() ? [plain, new URL('./dist/metaq.simd.wasm', import.meta.url)] : [plain];
}

/** Whether this engine has vectors, so that the faster loops are taken. */
export function hasSimd() {
  return WebAssembly.validate(new Uint8Array(SIMD_MODULE));
}

/** How much memory the decoder has taken, of which it gives nothing back to the engine. */
export async function memoryBytes() {
  return decoder ? (await decoder).exports.memory.buffer.byteLength : 0;
}

/** All tensors of a file, by name. */
export async function load(source, options = {}) {
  const tensors = new Map(), names = [];
  for await (const tensor of stream(source, { ...options, onOpen: (file) => names.push(...file.names) })) {
    tensors.set(tensor.name, tensor);
  }
  return new Map(names.map((name) => [name, tensors.get(name)]));
}

/** Tensors one after the other, as their bytes arrive. */
export async function* stream(source, options = {}) {
  const file = await MetaqFile.open(await openSource(source, false), options);
  try {
    options.onOpen?.(file);
    yield* file.stream(options);
  } finally {
    file.close();
  }
}

/** A file of which tensors are taken one by one, by HTTP ranges where the server has them. */
export async function safeOpen(source, options = {}) {
  return MetaqFile.open(await openSource(source, true), options);
}

/** As `load`, on a thread of its own. */
export async function loadInWorker(source, options = {}) {
  if (!decoder) init();
  const { modules } = await decoder;
  const worker = new Worker(new URL('./worker.js', import.meta.url), { type: 'module' });
  return new Promise((resolve, reject) => {
    worker.onmessage = ({ data: { tensors, error } }) => {
      if (!error) resolve(tensors);
      else reject(error.status ? new MetaqError(error.status, error.message, error.place) : new Error(error.message));
    };
    worker.onerror = (event) => reject(new Error(event.message));
    const isUrl = typeof source === 'string' || source instanceof URL;
    const given = isUrl ? new URL(source, globalThis.document?.baseURI).href : source;
    worker.postMessage({ modules, source: given, options });
  }).finally(() => worker.terminate());
}

/** Half-precision numbers as what they are; other floats of at most 32 bits are refused, others stay. */
export function widen(tensor) {
  if (tensor.dtype === 'bfloat16') {
    const bits = Uint32Array.from(tensor.data, (word) => word << 16);
    return { ...tensor, dtype: 'float32', data: new Float32Array(bits.buffer) };
  }
  if (tensor.dtype === 'float16') {
    return { ...tensor, dtype: 'float32', data: Float32Array.from(tensor.data, halfToNumber) };
  }
  return tensor;
}

function halfToNumber(word) {
  const exponent = word >> 10 & 31, fraction = word & 1023, sign = word >> 15 ? -1 : 1;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction);
}

class Decoder {
  #sources = new Map();
  #lastSource = 0;

  static async create(...sources) {
    const made = new Decoder();
    made.modules = await Promise.all(sources.map(compiled));
    const [plain, simd] = made.modules;
    const imports = { metaq: { read: (id, offset, out, size) => made.#read(id, offset, out, size) } };
    made.exports = (await WebAssembly.instantiate(plain, imports)).exports;
    made.exports._initialize();
    if (simd) await made.#takeLoops(simd);
    return made;
  }

  // Loops with vectors, which work in the decoder's memory, in place of its own.
  async #takeLoops(module) {
    const { memory, __indirect_function_table: table, metaq_wasm_use_loops: use } = this.exports;
    const { exports } = await WebAssembly.instantiate(module, { env: { memory, __indirect_function_table: table } });
    exports.__stack_pointer.value = STACK_END;
    exports._initialize();
    exports.use_allocator(use(...LOOPS.map((name) => table.grow(1, exports[name]))));
  }

  add(source) {
    this.#sources.set(++this.#lastSource, source);
    return this.#lastSource;
  }

  remove(id) { this.#sources.delete(id); }

  get view() { return new DataView(this.exports.memory.buffer); }

  size(address) { return this.view.getUint32(address >>> 0, true); }

  // A 64-bit number as a double, which has all that a file in memory needs; the largest is none.
  number(address) {
    const found = this.view.getBigUint64(address >>> 0, true);
    return found === 0xffffffffffffffffn ? undefined : Number(found);
  }

  text(address, size) { return utf8.decode(new Uint8Array(this.exports.memory.buffer, address >>> 0, size)); }

  // A text with a zero behind it.
  words(address) {
    const bytes = new Uint8Array(this.exports.memory.buffer, address >>> 0);
    return utf8.decode(bytes.subarray(0, bytes.indexOf(0)));
  }

  copy(address, size) { return this.exports.memory.buffer.slice(address >>> 0, (address >>> 0) + size); }

  // Memory that `work` may use, which gets its address; its size is not 0.
  with(size, work) {
    const address = size < 2 ** 32 ? this.exports.metaq_wasm_allocate(size) >>> 0 : 0;
    if (address === 0) throw this.errorOf(NO_MEMORY);
    try {
      return work(address);
    } finally {
      this.exports.metaq_wasm_release(address);
    }
  }

  errorOf(status, place = {}) {
    const { metaq_status_name, metaq_status_text } = this.exports;
    return new MetaqError(this.words(metaq_status_name(status)), this.words(metaq_status_text(status)), place);
  }

  // What the last call found wrong: a status, and the place.
  lastError() {
    const at = this.exports.metaq_wasm_error() >>> 0;
    const [headerByte, chunk, tensor] = [8, 16, 24].map((offset) => this.number(at + offset));
    return { status: this.size(at + 4), place: { headerByte, chunk, tensor } };
  }

  #read(id, offset, out, size) {
    const target = new Uint8Array(this.exports.memory.buffer, out >>> 0, size >>> 0);
    return this.#sources.get(id).copy(offset, target) ? 0 : 1;
  }
}

async function compiled(source) {
  return source instanceof WebAssembly.Module ? source : WebAssembly.compile(await bytesOf(source));
}

async function bytesOf(source) {
  if (ArrayBuffer.isView(source) || source instanceof ArrayBuffer) return source;
  const url = new URL(source, import.meta.url);
  if (url.protocol === 'file:') return (await import('node:fs/promises')).readFile(url);
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: expected the decoder, found HTTP status ${response.status}`);
  return response.arrayBuffer();
}

class MetaqFile {
  #decoder;
  #source;
  #id;
  #handle = 0;
  #options;

  static async open(source, options = {}) {
    const file = new MetaqFile();
    if (!decoder) init();
    file.#decoder = await decoder;
    file.#source = source;
    file.#options = options;
    file.#id = file.#decoder.add(source);
    try {
      file.#handle = await file.#opened();
      file.#list();
    } catch (error) {
      file.close();
      throw error;
    }
    return file;
  }

  /** The names of all tensors, as the file lists them. */
  get names() { return this.tensors.map(({ name }) => name); }

  /** One tensor, or its rows from the first to before the last. */
  async get(name, { rows, ...options } = {}) {
    const entry = this.tensors.find((tensor) => tensor.name === name);
    if (!entry) throw this.#decoder.errorOf(55);
    await this.#arrived(entry.beginByte, entry.endByte);
    const [tensor] = this.#decode([rows ? rowsOf(entry, rows, this.#decoder) : wholeOf(entry)]);
    return options.widen ? widen(tensor) : tensor;
  }

  /** All tensors, in the order in which their bytes are complete: those that one chunk completes are decoded together. */
  async *stream({ widen: isWidened = false } = {}) {
    const waiting = [...this.tensors].sort((a, b) => a.endByte - b.endByte || a.index - b.index);
    for (let end = 0; waiting.length > 0;) {
      end = waiting.findIndex(({ endByte }) => endByte !== waiting[0].endByte);
      const group = waiting.splice(0, end < 0 ? waiting.length : end);
      await this.#arrived(Math.min(...group.map(({ beginByte }) => beginByte)), group[0].endByte);
      const tensors = this.#decode(group.map(wholeOf));
      const needed = waiting.filter(({ endByte }) => endByte > 0).map(({ beginByte }) => beginByte);
      this.#source.release(Math.min(group[0].endByte, ...needed));
      for (const tensor of tensors) yield isWidened ? widen(tensor) : tensor;
    }
    if (this.#source.size < 0) await this.#end();
  }

  /** Lets go of the decoder's memory. */
  close() {
    if (this.#handle) this.#decoder.exports.metaq_close(this.#handle);
    this.#decoder.remove(this.#id);
    this.#handle = 0;
    this.#source.cancel();
  }

  // Opens the file, and waits for as much of it as that takes.
  async #opened() {
    const { exports } = this.#decoder;
    for (let before = ''; ;) {
      const { size } = this.#source;
      const handle = exports.metaq_wasm_open(this.#id, size, this.#options.takeDifferences ? 1 : 0);
      if (handle) return handle;
      const { status, place } = this.#decoder.lastError();
      const state = `${size} ${this.#source.wanted}`;
      if (status !== READ_FAILED || state === before) throw this.#decoder.errorOf(status, place);
      before = state;
      await this.#source.arrived(0, this.#source.wanted);
    }
  }

  // Waits for bytes. When the end of the file has come, so that its size is known, the file is judged by that.
  async #arrived(begin, end) {
    const wasOpen = this.#source.size < 0;
    await this.#source.arrived(begin, end);
    if (wasOpen && this.#source.size >= 0) this.#decoder.exports.metaq_close(await this.#opened());
  }

  // Waits for the end of a stream, of which at most one byte too many is read.
  async #end() {
    const end = Math.max(0, ...this.tensors.map(({ endByte }) => endByte));
    await this.#arrived(0, end > 0 ? end + 1 : Infinity);
    if (this.#source.size >= 0) return;
    this.#source.finish();
    this.#decoder.exports.metaq_close(await this.#opened());
  }

  #list() {
    const { exports } = this.#decoder;
    this.tensors = Array.from({ length: exports.metaq_tensor_count(this.#handle) }, (_, i) => this.#entry(i));
    this.metadata = Object.fromEntries(
      Array.from({ length: exports.metaq_metadata_count(this.#handle) }, (_, i) => this.#metadata(i)),
    );
    const starts = this.tensors.filter(({ endByte }) => endByte > 0).map(({ beginByte }) => beginByte);
    this.#source.keep(Math.min(...starts));
  }

  #entry(index) {
    const { exports } = this.#decoder;
    const at = exports.metaq_wasm_tensor(this.#handle, index) >>> 0;
    const size = (offset) => this.#decoder.size(at + offset), number = (offset) => this.#decoder.number(at + offset);
    const shape = Array.from({ length: size(20) }, (_, i) => this.#decoder.number(size(24) + 8 * i));
    return {
      index, shape, name: this.#decoder.text(size(4), size(8)), elementBytes: size(16), target: size(64),
      dtype: this.#decoder.words(exports.metaq_dtype_name(size(12))),
      size: number(32), sizeBytes: number(40), rows: number(48), beginByte: number(72), endByte: number(80),
    };
  }

  #metadata(index) {
    return this.#decoder.with(16, (address) => {  // two addresses and two sizes
      this.#decoder.exports.metaq_wasm_metadata(this.#handle, index, address, address + 8);
      const [key, value, keySize, valueSize] = [0, 4, 8, 12].map((offset) => this.#decoder.size(address + offset));
      return [this.#decoder.text(key, keySize), this.#decoder.text(value, valueSize)];
    });
  }

  // Decodes elements of tensors, whose bytes are there, each chunk once.
  #decode(wanted) {
    const sizes = wanted.map(({ count, elementBytes }) => count * elementBytes);
    const starts = [];
    let total = OUTPUT_BYTES * wanted.length;
    for (const size of sizes) {
      starts.push(total);
      total += Math.ceil(size / 16) * 16;
    }
    return this.#decoder.with(total, (address) => {
      const view = this.#decoder.view;
      wanted.forEach(({ index, first, count }, i) => {
        const at = address + OUTPUT_BYTES * i;
        [OUTPUT_BYTES, index].forEach((value, member) => view.setUint32(at + 4 * member, value, true));
        view.setBigUint64(at + 8, BigInt(first), true);
        view.setBigUint64(at + 16, BigInt(count), true);
        [address + starts[i], sizes[i]].forEach((value, member) => view.setUint32(at + 24 + 4 * member, value, true));
      });
      if (this.#decoder.exports.metaq_wasm_decode(this.#handle, address, wanted.length) !== 0) {
        const { status, place } = this.#decoder.lastError();
        throw this.#decoder.errorOf(status, place);
      }
      return wanted.map(({ name, dtype, shape }, i) => {
        const bytes = this.#decoder.copy(address + starts[i], sizes[i]);
        return { name, dtype, shape, data: new ARRAYS[dtype](bytes) };
      });
    });
  }
}

function wholeOf(entry) { return { ...entry, first: 0, count: entry.size }; }

function rowsOf(entry, [first, end], decoder) {
  if (!(0 <= first && first <= end && end <= entry.rows)) throw decoder.errorOf(49);
  const row = entry.rows ? entry.size / entry.rows : 0;
  return { ...entry, shape: [end - first, ...entry.shape.slice(1)], first: first * row, count: (end - first) * row };
}

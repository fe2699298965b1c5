/** Reads `.mtq` files, neural networks that are small on disk, in browsers, workers and Node. */

export type Dtype =
  | 'float32' | 'float16' | 'bfloat16' | 'float64' | 'float8_e4m3fn' | 'float8_e5m2'
  | 'uint8' | 'int8' | 'int16' | 'int32' | 'int64' | 'bool';

/** Elements row-major, in memory of their own. Those of float16, bfloat16 and float8 are bits, unless they are widened. */
export interface Tensor {
  name: string;
  dtype: Dtype;
  shape: number[];
  data:
    | Float32Array | Float64Array | Uint8Array | Uint16Array | Int8Array | Int16Array | Int32Array | BigInt64Array;
}

/** What a file says of a tensor. Decoding it takes bytes of the file from `beginByte` to before `endByte`. */
export interface TensorInfo {
  name: string;
  dtype: Dtype;
  shape: number[];
  index: number;
  /** Of another name for a tensor, that tensor's index; its own otherwise. */
  target: number;
  size: number;
  sizeBytes: number;
  elementBytes: number;
  rows: number;
  beginByte: number;
  endByte: number;
}

export type Source = string | URL | Response | ReadableStream<Uint8Array> | Blob | ArrayBuffer | ArrayBufferView;

export interface DecodeOptions {
  /** Gives float16 and bfloat16 as float32. */
  widen?: boolean;
}

export interface LoadOptions extends DecodeOptions {
  /** Takes a difference too, which is nothing without its base: its tensors are differences, not weights. */
  takeDifferences?: boolean;
}

/** What is wrong with a file, or with a call: the message is that of the decoder for C. */
export class MetaqError extends Error {
  /** Such as `chunk_checksum`: docs/robustness.md lists them. */
  status: string;
  place: { headerByte?: number; chunk?: number; tensor?: number };
}

export interface MetaqFile {
  readonly tensors: TensorInfo[];
  readonly names: string[];
  readonly metadata: Record<string, string>;
  /** One tensor, or its rows from the first to before the second. Rejects with a MetaqError. */
  get(name: string, options?: DecodeOptions & { rows?: [number, number] }): Promise<Tensor>;
  /** All tensors, in the order in which their bytes are complete. Those of a source that can be read once are gone afterwards. */
  stream(options?: DecodeOptions): AsyncGenerator<Tensor>;
  /** Lets go of the decoder's memory. Tensors stay. */
  close(): void;
}

/** All tensors of a file, by name. Rejects with a MetaqError if it is malformed, or ends early. */
export function load(source: Source, options?: LoadOptions): Promise<Map<string, Tensor>>;

/** As `load`, on a thread of its own. */
export function loadInWorker(source: Source, options?: LoadOptions): Promise<Map<string, Tensor>>;

/**
 * Tensors one after the other, as their bytes arrive: in memory are the bytes that are still needed, and the tensors that one chunk
 * completes. Throws a MetaqError behind the last if the file does not end there.
 */
export function stream(source: Source, options?: LoadOptions): AsyncGenerator<Tensor>;

/** A file of which tensors are taken one by one, of a URL by HTTP ranges if the server has them. */
export function safeOpen(source: Source, options?: LoadOptions): Promise<MetaqFile>;

/** Half-precision numbers as float32; other tensors stay as they are. */
export function widen(tensor: Tensor): Tensor;

export type ModuleSource = ArrayBuffer | ArrayBufferView | string | URL | WebAssembly.Module;

/**
 * Takes modules from elsewhere than beside this one, before the first file: the decoder, and its inner loops with vectors, without
 * which it is slower. Without arguments it takes those beside this module, the second if the engine has vectors.
 */
export function init(plain?: ModuleSource, simd?: ModuleSource): Promise<void>;

/** How much memory the decoder has taken, of which it gives nothing back to the engine. */
export function memoryBytes(): Promise<number>;

/** Whether the engine has vectors, so that `metaq.simd.wasm` is taken as well. */
export function hasSimd(): boolean;

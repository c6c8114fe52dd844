/** Reads, checks and writes safetensors files. Format: https://github.com/huggingface/safetensors (`safetensors/src/tensor.rs`). */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { type FileHandle, mkdir, open, rename, stat, unlink } from 'node:fs/promises'
import { dirname } from 'node:path'
import { LorafuseError } from '../errors.js'
import { type FloatType, narrow, widen } from './floats.js'

/** A tensor as the header declares it, of any dtype; `offset` counts bytes from the start of the file. */
export interface TensorEntry {
  name: string
  dtype: string
  shape: number[]
  offset: number
  byteLength: number
}

export interface SafetensorsHeader {
  metadata: Record<string, string>
  /** In the order of their bytes. */
  tensors: TensorEntry[]
  /** Where the tensors' bytes begin. */
  dataStart: number
  /** Of the whole file, in bytes. */
  size: number
}

/** A tensor in memory: widened to f32 when read, rounded to `dtype` when written. */
export interface Tensor {
  dtype: FloatType
  shape: number[]
  data: Float32Array
}

export interface NamedTensor extends Tensor {
  name: string
}

const MAX_HEADER_BYTES = 100_000_000
const BYTES: Record<string, number> = {
  ...{ BOOL: 1, U8: 1, I8: 1, F8_E5M2: 1, F8_E4M3: 1, F8_E8M0: 1, U16: 2, I16: 2, F16: 2, BF16: 2 },
  ...{ U32: 4, I32: 4, F32: 4, U64: 8, I64: 8, F64: 8, C64: 8 },
}

function invalid(path: string, problem: string): LorafuseError {
  return new LorafuseError('SAFETENSORS_INVALID', `${problem} (${path}). The file is damaged or incomplete; fetch or write it again`)
}

/** Opens a file that should exist; throws `FILE_NOT_FOUND`. */
async function openFile(path: string): Promise<FileHandle> {
  try {
    return await open(path, 'r')
  } catch (cause) {
    const reason = (cause as NodeJS.ErrnoException).code ?? String(cause)
    throw new LorafuseError('FILE_NOT_FOUND', `Expected a readable safetensors file at ${path} but received ${reason}`, { cause })
  }
}

async function readBytes(file: FileHandle, path: string, offset: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length)
  for (let done = 0; done < length; ) {
    const { bytesRead } = await file.read(bytes, done, Math.min(length - done, 2 ** 30), offset + done)
    if (bytesRead === 0) throw invalid(path, `Expected ${length} bytes at ${offset} but the file ends after ${done} of them`)
    done += bytesRead
  }
  return bytes
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function parseMetadata(value: unknown, path: string): Record<string, string> {
  const valid = isRecord(value) && Object.values(value).every((text) => typeof text === 'string')
  if (!valid) throw invalid(path, 'Expected strings for __metadata__ but received something else')
  return value as Record<string, string>
}

function parseTensor(name: string, value: unknown, dataStart: number, size: number, path: string): TensorEntry {
  const { dtype, shape, data_offsets: offsets } = isRecord(value) ? value : {}
  const width = typeof dtype === 'string' && Object.hasOwn(BYTES, dtype) ? BYTES[dtype] : undefined
  if (width === undefined) throw invalid(path, `Expected a known dtype for tensor ${name} but received ${JSON.stringify(dtype)}`)
  if (!Array.isArray(shape) || !shape.every(isCount)) {
    throw invalid(path, `Expected whole numbers for the shape of tensor ${name} but received ${JSON.stringify(shape)}`)
  }
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount)) {
    throw invalid(path, `Expected two whole numbers for the offsets of tensor ${name} but received ${JSON.stringify(offsets)}`)
  }
  const [begin, end] = offsets as [number, number]
  const expected = shape.reduce((product, length) => product * length, width)
  if (end - begin !== expected) {
    throw invalid(path, `Expected ${expected} bytes for tensor ${name} (${dtype} [${shape.join(', ')}]) but received ${end - begin}`)
  }
  if (dataStart + end > size) {
    throw invalid(path, `Expected tensor ${name} to end at byte ${dataStart + end} but the file ends at ${size}`)
  }
  return { name, dtype: dtype as string, shape: shape as number[], offset: dataStart + begin, byteLength: expected }
}

/** Like the reference reader, refuses overlaps, holes and bytes that belong to no tensor. */
function checkCoverage(tensors: TensorEntry[], dataStart: number, size: number, path: string): void {
  let end = dataStart
  for (const { name, offset, byteLength } of tensors) {
    if (offset < end) throw invalid(path, `Expected tensor ${name} to begin at byte ${end} but it overlaps another, beginning at ${offset}`)
    if (offset > end) throw invalid(path, `Expected tensor ${name} to begin at byte ${end} but it leaves a hole, beginning at ${offset}`)
    end = offset + byteLength
  }
  if (end !== size) throw invalid(path, `Expected the file to end with its last tensor at byte ${end} but it has ${size}`)
}

async function parseHeader(file: FileHandle, path: string): Promise<SafetensorsHeader> {
  const stat = await file.stat()
  if (!stat.isFile()) throw invalid(path, 'Expected a safetensors file but received a folder or device')
  if (stat.size < 8) throw invalid(path, `Expected a safetensors file but received ${stat.size} bytes`)
  const prefix = await readBytes(file, path, 0, 8)
  const length = Number(new DataView(prefix.buffer).getBigUint64(0, true))
  if (length > MAX_HEADER_BYTES) throw invalid(path, `Expected a header of at most ${MAX_HEADER_BYTES} bytes but it claims ${length}`)
  const dataStart = 8 + length
  if (dataStart > stat.size) throw invalid(path, `Expected a header of ${length} bytes but the file has ${stat.size}`)
  const bytes = await readBytes(file, path, 8, length)
  let header: unknown
  try {
    header = JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes))
  } catch {
    throw invalid(path, 'Expected JSON for the header but received something else')
  }
  if (!isRecord(header)) throw invalid(path, 'Expected a JSON object for the header but received something else')
  const { __metadata__: metadata = {}, ...entries } = header
  const tensors = Object.entries(entries).map(([name, value]) => parseTensor(name, value, dataStart, stat.size, path))
  tensors.sort((a, b) => a.offset - b.offset || a.byteLength - b.byteLength)
  checkCoverage(tensors, dataStart, stat.size, path)
  return { metadata: parseMetadata(metadata, path), tensors, dataStart, size: stat.size }
}

/** Reads and checks a file's header. Throws `FILE_NOT_FOUND`, or `SAFETENSORS_INVALID` naming the file and the tensor. */
export async function readHeader(path: string): Promise<SafetensorsHeader> {
  const file = await openFile(path)
  try {
    return await parseHeader(file, path)
  } finally {
    await file.close()
  }
}

/**
 * Reads tensors, widened to f32: those named, or all. Throws `FILE_NOT_FOUND` and `SAFETENSORS_INVALID`; the latter also for a name
 * that is not there and for a dtype other than F32, F16, BF16.
 */
export async function readTensors(path: string, names?: string[]): Promise<Map<string, Tensor>> {
  const file = await openFile(path)
  try {
    const header = await parseHeader(file, path)
    const byName = new Map(header.tensors.map((entry) => [entry.name, entry]))
    const tensors = new Map<string, Tensor>()
    for (const name of names ?? byName.keys()) {
      const entry = byName.get(name)
      if (!entry) throw invalid(path, `Expected a tensor named ${name} but the file has none`)
      const { dtype, shape, offset, byteLength } = entry
      if (dtype !== 'F32' && dtype !== 'F16' && dtype !== 'BF16') {
        throw invalid(path, `Expected F32, F16 or BF16 for tensor ${name} but received ${dtype}`)
      }
      tensors.set(name, { dtype, shape, data: widen(await readBytes(file, path, offset, byteLength), dtype) })
    }
    return tensors
  } finally {
    await file.close()
  }
}

/** A file's bytes: the header, then each tensor's. Widest dtype first, then by name, as the reference writer orders them. */
function* serialize(tensors: NamedTensor[], metadata: Record<string, string>): Generator<Uint8Array> {
  const bytesOf = (dtype: FloatType) => (dtype === 'F32' ? 4 : 2)
  const order = (a: NamedTensor, b: NamedTensor) => bytesOf(b.dtype) - bytesOf(a.dtype) || (a.name < b.name ? -1 : 1)
  const sorted = [...tensors].sort(order)
  const header: Record<string, unknown> = {}
  if (Object.keys(metadata).length > 0) header.__metadata__ = metadata
  let end = 0
  for (const { name, dtype, shape, data } of sorted) {
    const count = shape.reduce((product, length) => product * length, 1)
    if (count !== data.length) {
      throw new LorafuseError('INTERNAL', `Expected ${count} values for tensor ${name} [${shape.join(', ')}] but received ${data.length}`)
    }
    const begin = end
    end += count * bytesOf(dtype)
    header[name] = { dtype, shape, data_offsets: [begin, end] }
  }
  const json = new TextEncoder().encode(JSON.stringify(header))
  const length = Math.ceil(json.length / 8) * 8
  const head = new Uint8Array(8 + length).fill(0x20, 8)
  new DataView(head.buffer).setBigUint64(0, BigInt(length), true)
  head.set(json, 8)
  yield head
  for (const { dtype, data } of sorted) yield narrow(data, dtype)
}

/** Writes a file atomically; its header begins `{"` and is padded to 8 bytes. Throws as `writeAtomically`. */
export async function writeSafetensors(path: string, tensors: NamedTensor[], metadata: Record<string, string> = {}): Promise<void> {
  await writeAtomically(path, serialize(tensors, metadata))
}

/**
 * kohya's two hashes of a LoRA: `model` (`sshs_model_hash`), sha256 of the bytes after the header; `legacy` (`sshs_legacy_hash`), as
 * `legacyHash` of the file serialised with only the `ss_*` metadata
 * (kohya-ss/sd-scripts:library/train_util.py, precalculate_safetensors_hashes).
 */
export function hashTensors(tensors: NamedTensor[], metadata: Record<string, string>): { model: string; legacy: string } {
  const trained = Object.fromEntries(Object.entries(metadata).filter(([key]) => key.startsWith('ss_')))
  const [header, ...data] = serialize(tensors, trained)
  const model = createHash('sha256')
  for (const bytes of data) model.update(bytes)
  const legacy = createHash('sha256')
  let at = 0
  for (const bytes of [header as Uint8Array, ...data]) {
    legacy.update(bytes.subarray(Math.max(0, LEGACY_BEGIN - at), Math.max(0, LEGACY_END - at)))
    at += bytes.length
  }
  return { model: model.digest('hex'), legacy: legacy.digest('hex').slice(0, 8) }
}

const LEGACY_BEGIN = 0x100000
const LEGACY_END = 0x110000

/** sha256 of files, one after the other, in hex: of all their bytes, or of those in a range, `end` included. */
export async function hashFiles(paths: string[], range: { start?: number; end?: number } = {}): Promise<string> {
  const hash = createHash('sha256')
  for (const path of paths) {
    for await (const chunk of createReadStream(path, { ...range, highWaterMark: 2 ** 20 })) hash.update(chunk as Uint8Array)
  }
  return hash.digest('hex')
}

/** A1111's old model hash: the first 8 hex digits of the sha256 of bytes 0x100000 to 0x10FFFF. */
export async function legacyHash(path: string): Promise<string> {
  return (await hashFiles([path], { start: LEGACY_BEGIN, end: LEGACY_END - 1 })).slice(0, 8)
}

/**
 * Makes a folder and those above it. Trap: Node's own recursive mkdir never returns where a folder exists but takes none, as /proc.
 */
export async function makeFolder(path: string): Promise<void> {
  try {
    await mkdir(path)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'EEXIST') return
    const parent = dirname(path)
    if (code !== 'ENOENT' || (await stat(parent).catch(() => undefined))) throw error
    await makeFolder(parent)
    await makeFolder(path)
  }
}

let written = 0

/**
 * Writes a file so that a reader, or a crash, sees the old one or the whole new one: to a temporary beside it, synced, renamed, the folder
 * synced. On failure the temporary is removed. Throws `DISK_FULL`, `OUTPUT_NOT_WRITABLE`.
 */
export async function writeAtomically(path: string, content: Uint8Array | string | Iterable<Uint8Array>): Promise<void> {
  written += 1
  const temporary = `${path}.tmp-${process.pid}-${written}`
  const chunks = typeof content === 'string' ? [new TextEncoder().encode(content)] : content instanceof Uint8Array ? [content] : content
  let file: FileHandle | undefined
  try {
    file = await open(temporary, 'wx')
    for (const chunk of chunks) await file.writeFile(chunk)
    await file.sync()
    await file.close()
    await rename(temporary, path)
  } catch (cause) {
    await file?.close().catch(() => undefined)
    if (file) await unlink(temporary).catch(() => undefined)
    throw writeError(path, cause)
  }
  await syncFolder(dirname(path))
}

function writeError(path: string, cause: unknown): unknown {
  const { code } = cause as NodeJS.ErrnoException
  if (cause instanceof LorafuseError || code === undefined) return cause
  if (code === 'ENOSPC' || code === 'EDQUOT' || code === 'EFBIG') {
    return new LorafuseError('DISK_FULL', `Expected room for ${path} but the disk is full (${code}); free some space and resume`, { cause })
  }
  return new LorafuseError('OUTPUT_NOT_WRITABLE', `Expected to be able to write ${path} but received ${code}`, { cause })
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r')
  await folder.sync().catch(() => undefined)
  await folder.close()
}

/** Reads, checks and writes safetensors files. Format: https://github.com/huggingface/safetensors (`safetensors/src/tensor.rs`). */
import type { FileHandle } from 'node:fs/promises'
import { LorafuseError, shown } from '../errors.js'
import { inPieces, type Turn, turns } from '../turns.js'
import { writeAtomically } from './atomic.js'
import { DISGUISE_BYTES, disguiseOf } from './disguise.js'
import { type FloatType, isNumberType, NUMBER_TYPES, type NumberType, narrow, widen } from './floats.js'
import { isCount, isRecord, measured, parseRecord } from './json.js'
import { openFile, pathError, readRange } from './read.js'

/** A tensor of any dtype as the header declares it; `offset` is in bytes from the start of the file. */
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
  /** The size of the whole file in bytes. */
  size: number
}

/** A tensor of a file, widened to f32. */
export interface Tensor {
  dtype: NumberType
  shape: number[]
  data: Float32Array
}

/** A tensor to be written, rounded to `dtype`. */
export interface NamedTensor extends Tensor {
  name: string
  dtype: FloatType
}

const WHAT = 'a safetensors file'
/** `{`, with which a header begins, behind the 8 bytes of its length. */
export const BRACE = 0x7b
const MAX_HEADER_BYTES = 100_000_000
/** More than any model has; each takes memory many times its bytes of the header. */
const MOST_TENSORS = 100_000
/** In a header: its entry, the three fields of that, four lengths of a shape and two offsets. */
const VALUES_OF_TENSOR = 10
const BYTES: Record<string, number> = {
  ...{ BOOL: 1, U8: 1, I8: 1, F8_E5M2: 1, F8_E4M3: 1, F8_E8M0: 1, U16: 2, I16: 2, F16: 2, BF16: 2 },
  ...{ U32: 4, I32: 4, F32: 4, U64: 8, I64: 8, F64: 8, C64: 8 },
}

/** Returns the bytes of an element; undefined where a safetensors file has no such dtype. */
export function byteWidth(dtype: string): number | undefined {
  return Object.hasOwn(BYTES, dtype) ? BYTES[dtype] : undefined
}

function invalid(path: string, problem: string): LorafuseError {
  return new LorafuseError('SAFETENSORS_INVALID', `${problem} (${path}). The file is damaged or incomplete; fetch or write it again`)
}

/** Opens a file, uses it and closes it. Throws as `openFile`. */
async function withFile<Result>(path: string, what: string, use: (file: FileHandle) => Promise<Result>): Promise<Result> {
  const file = await openFile(path, what)
  try {
    return await use(file)
  } catch (cause) {
    throw pathError(what, path, cause)
  } finally {
    await file.close()
  }
}

async function readBytes(file: FileHandle, path: string, offset: number, length: number): Promise<Uint8Array> {
  const bytes = await readRange(file, offset, length)
  if (bytes.length === length) return bytes
  throw invalid(path, `Expected ${length} bytes at ${offset} but the file ends after ${bytes.length} of them`)
}

function parseMetadata(value: unknown, path: string): Record<string, string> {
  const valid = isRecord(value) && Object.values(value).every((text) => typeof text === 'string')
  if (!valid) throw invalid(path, 'Expected strings for __metadata__ but received something else')
  return value as Record<string, string>
}

function parseTensor(name: string, value: unknown, dataStart: number, size: number, path: string): TensorEntry {
  const { dtype, shape, data_offsets: offsets } = isRecord(value) ? value : {}
  const width = typeof dtype === 'string' ? byteWidth(dtype) : undefined
  const tensor = `tensor ${shown(name)}`
  if (width === undefined) throw invalid(path, `Expected a known dtype for ${tensor} but received ${shown(dtype)}`)
  if (!Array.isArray(shape) || !shape.every(isCount)) {
    throw invalid(path, `Expected whole numbers for the shape of ${tensor} but received ${shown(shape)}`)
  }
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount)) {
    throw invalid(path, `Expected two whole numbers for the offsets of ${tensor} but received ${shown(offsets)}`)
  }
  const [begin, end] = offsets as [number, number]
  const expected = shape.reduce((product, length) => product * length, width)
  if (end - begin !== expected) {
    throw invalid(path, `Expected ${expected} bytes for ${tensor} (${dtype} ${shown(shape)}) but received ${end - begin}`)
  }
  if (dataStart + end > size) {
    throw invalid(path, `Expected ${tensor} to end at byte ${dataStart + end} but the file ends at ${size}`)
  }
  return { name, dtype: dtype as string, shape: shape as number[], offset: dataStart + begin, byteLength: expected }
}

function checkCount(tensors: number, path: string): void {
  if (tensors > MOST_TENSORS) throw invalid(path, `Expected at most ${MOST_TENSORS} tensors but the header has more`)
}

/** Refuses overlaps, holes and bytes that belong to no tensor, as the reference reader does. */
function checkCoverage(tensors: TensorEntry[], dataStart: number, size: number, path: string): void {
  let end = dataStart
  for (const { name, offset, byteLength } of tensors) {
    const expected = `Expected tensor ${shown(name)} to begin at byte ${end}`
    if (offset < end) throw invalid(path, `${expected} but it overlaps another, beginning at ${offset}`)
    if (offset > end) throw invalid(path, `${expected} but it leaves a hole, beginning at ${offset}`)
    end = offset + byteLength
  }
  if (end !== size) throw invalid(path, `Expected the file to end with its last tensor at byte ${end} but it has ${size}`)
}

async function parseHeader(file: FileHandle, path: string): Promise<SafetensorsHeader> {
  const { size } = await file.stat()
  if (size < 8) throw invalid(path, `Expected a safetensors file but received ${size} bytes`)
  const begin = await readBytes(file, path, 0, Math.min(size, DISGUISE_BYTES))
  const disguise = begin[8] === BRACE ? undefined : disguiseOf(begin)
  if (disguise) {
    throw new LorafuseError(
      'SAFETENSORS_INVALID',
      `Expected a safetensors file at ${path} but received ${disguise.kind}; ${disguise.advice}`,
    )
  }
  const length = Number(new DataView(begin.buffer).getBigUint64(0, true))
  if (length > MAX_HEADER_BYTES) throw invalid(path, `Expected a header of at most ${MAX_HEADER_BYTES} bytes but it claims ${length}`)
  const dataStart = 8 + length
  if (dataStart > size) throw invalid(path, `Expected a header of ${length} bytes but the file has ${size}`)
  const bytes = await readBytes(file, path, 8, length)
  let text = ''
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {}
  checkCount(measured(text).values / VALUES_OF_TENSOR, path)
  const header = parseRecord(text)
  if (!header) throw invalid(path, 'Expected a JSON object for the header but received something else')
  const { __metadata__: metadata = {}, ...entries } = header
  checkCount(Object.keys(entries).length, path)
  const tensors = Object.entries(entries).map(([name, value]) => parseTensor(name, value, dataStart, size, path))
  tensors.sort((a, b) => a.offset - b.offset || a.byteLength - b.byteLength)
  checkCoverage(tensors, dataStart, size, path)
  return { metadata: parseMetadata(metadata, path), tensors, dataStart, size }
}

/**
 * Reads and checks a file's header. `what`: what was expected. Throws `SAFETENSORS_INVALID` naming the file and the tensor, `FILE_NOT_FOUND`,
 * `FILE_UNREADABLE`, `TOO_MANY_FILES`.
 */
export async function readHeader(path: string, what = WHAT): Promise<SafetensorsHeader> {
  return withFile(path, what, (file) => parseHeader(file, path))
}

/**
 * Reads the tensors in `names`, or all, widened to f32. `header`: the file's own, where it has been read already. Throws as `readHeader`;
 * `SAFETENSORS_INVALID` also for a name that is not there and for a dtype that is no `NumberType`.
 */
export async function readTensors(path: string, names?: string[], header?: SafetensorsHeader): Promise<Map<string, Tensor>> {
  return withFile(path, WHAT, async (file) => {
    const { tensors: entries } = header ?? (await parseHeader(file, path))
    const byName = new Map(entries.map((entry) => [entry.name, entry]))
    const tensors = new Map<string, Tensor>()
    for (const name of names ?? byName.keys()) {
      const entry = byName.get(name)
      if (!entry) throw invalid(path, `Expected a tensor named ${shown(name)} but the file has none`)
      const { dtype, shape, offset, byteLength } = entry
      if (!isNumberType(dtype)) {
        const problem = `Expected ${NUMBER_TYPES.join(', ')} for tensor ${shown(name)} in ${path} but received ${dtype}`
        throw new LorafuseError('SAFETENSORS_INVALID', `${problem}, which is not supported`)
      }
      tensors.set(name, { dtype, shape, data: widen(await readBytes(file, path, offset, byteLength), dtype) })
    }
    return tensors
  })
}

/** Tensors as the bytes of a file: hashed and written without being rounded twice. */
export interface PackedTensors {
  /** The header's entries, in the order of `data`. */
  entries: Record<string, { dtype: FloatType; shape: number[]; data_offsets: [number, number] }>
  data: Uint8Array[]
}

/**
 * Rounds tensors to their dtypes, the widest dtype first, then by name, as the reference writer orders them, in pieces. `room`: for what is
 * rounded to 16 bits, instead of new memory.
 */
export async function packTensors(tensors: NamedTensor[], room = new Uint16Array(0), turn: Turn = turns()): Promise<PackedTensors> {
  const order = (a: NamedTensor, b: NamedTensor) => BYTES[b.dtype]! - BYTES[a.dtype]! || (a.name < b.name ? -1 : 1)
  const packed: PackedTensors = { entries: {}, data: [] }
  let [end, rounded] = [0, 0]
  for (const { name, dtype, shape, data } of [...tensors].sort(order)) {
    const count = shape.reduce((product, length) => product * length, 1)
    if (count !== data.length) {
      throw new LorafuseError('INTERNAL', `Expected ${count} values for tensor ${name} [${shape.join(', ')}] but received ${data.length}`)
    }
    let bytes = narrow(data, 'F32')
    if (dtype !== 'F32') {
      const words = room.length - rounded >= count ? room.subarray(rounded, rounded + count) : new Uint16Array(count)
      await inPieces(count, turn, (begin, end) => narrow(data.subarray(begin, end), dtype, words.subarray(begin, end)))
      bytes = new Uint8Array(words.buffer, words.byteOffset, words.byteLength)
      rounded += count
    }
    packed.entries[name] = { dtype, shape, data_offsets: [end, end + bytes.length] }
    packed.data.push(bytes)
    end += bytes.length
  }
  return packed
}

/** Returns the bytes before the tensors': the header's length, then the header, which begins `{"` and is padded to 8 bytes. */
export function headerBytes({ entries }: PackedTensors, metadata: Record<string, string>): Uint8Array {
  const header = { ...(Object.keys(metadata).length > 0 ? { __metadata__: metadata } : {}), ...entries }
  const json = new TextEncoder().encode(JSON.stringify(header))
  const length = Math.ceil(json.length / 8) * 8
  const head = new Uint8Array(8 + length).fill(0x20, 8)
  new DataView(head.buffer).setBigUint64(0, BigInt(length), true)
  head.set(json, 8)
  return head
}

/** Writes a file atomically. Throws as `writeAtomically`. */
export async function writeSafetensors(
  path: string,
  tensors: NamedTensor[] | PackedTensors,
  metadata: Record<string, string> = {},
): Promise<void> {
  const packed = Array.isArray(tensors) ? await packTensors(tensors) : tensors
  await writeAtomically(path, [headerBytes(packed, metadata), ...packed.data])
}

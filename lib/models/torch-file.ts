/**
 * Reads where tensors lie in PyTorch's files: `torch.save` writes a zip of a pickle and a member for each storage, and wrote one pickle after
 * the other and the storages behind them before (pytorch/pytorch:torch/serialization.py). Tensors are used where they lie in the file.
 */
import type { FileHandle } from 'node:fs/promises'
import { type Entry, fromRandomAccessReaderPromise, RandomAccessReader, type ZipFile } from 'yauzl'
import { cut, LorafuseError, shown } from '../errors.js'
import { isCount } from '../files/json.js'
import { openFile, pathError, readRange } from '../files/read.js'
import { byteWidth, type TensorEntry } from '../files/safetensors.js'
import { type Turn, turns } from '../turns.js'
import { Unpickler } from './pickle.js'
import { Dict, type Storage, StoredTensor, UnstoredTensor } from './torch-objects.js'

/** A tensor of a checkpoint; `problem`: why it cannot be used where it lies. */
export interface CheckpointTensor extends TensorEntry {
  problem?: string
}

/** What a checkpoint holds, in whatever format. */
export interface Checkpoint {
  path: string
  /** Of a pickle: numbers and texts beside the tensors, such as `global_step`. */
  metadata: Record<string, string>
  tensors: CheckpointTensor[]
}

/** Bytes of a storage in the file. */
interface Place {
  offset: number
  byteLength: number
  problem?: string
}

/** More than the pickles of any checkpoint have. */
const MOST_PICKLE = 2 ** 26
/** How much of a file of pickles is read at first. */
const FIRST_PIECE = 2 ** 20
/** More than a checkpoint with the states of its optimizer has. */
const MOST_STORAGES = 2 ** 16
const MOST_METADATA = 64
const LONGEST_METADATA = 100
const MOST_NESTED = 4
const MAGIC = 0x1950a86a20f9469cfc6cn
const PROTOCOL = 1001
const FLAG_ENCRYPTED = 1

function invalid(path: string, problem: string): LorafuseError {
  return new LorafuseError('PICKLE_INVALID', `${problem} (${path}). The file is damaged or incomplete; fetch or write it again`)
}

export function unreadable(path: string, what: string): LorafuseError {
  return new LorafuseError('PICKLE_UNSUPPORTED', `Expected ${what} (${path}). Save the weights as safetensors`)
}

/** Finds the dict of tensors, which trainers put into another one. */
function stateOf(value: unknown, path: string): { state: Dict; metadata: Record<string, string> } {
  const metadata: Record<string, string> = {}
  let state = value
  for (let depth = 0; state instanceof Dict && depth < MOST_NESTED; depth++) {
    const outer: Dict = state
    for (const [key, item] of outer) {
      const isShort = typeof item === 'number' || (typeof item === 'string' && item.length < LONGEST_METADATA)
      if (isShort && Object.keys(metadata).length < MOST_METADATA) metadata[key] = String(item)
    }
    state = ['state_dict', 'model', 'module'].map((key) => outer.get(key)).find((item) => item instanceof Dict)
    if (!state) return { state: outer, metadata }
  }
  throw unreadable(path, 'a dict of tensors but received another object, such as a whole module, of which nothing is built')
}

function isContiguous({ shape, strides }: StoredTensor): boolean {
  let expected = 1
  for (let i = shape.length - 1; i >= 0; i--) {
    if (shape[i] === 1) continue
    if (strides[i] !== expected) return false
    expected *= shape[i] as number
  }
  return true
}

/** Finds a tensor's bytes in those of its storage, which lie at `place`. */
function placed(name: string, tensor: StoredTensor, place: Place | undefined, path: string): CheckpointTensor {
  const { dtype, shape, strides, offset, storage } = tensor
  const width = byteWidth(dtype)!
  // From the first of its elements to the last.
  const span = shape.includes(0) ? 0 : shape.reduce((sum, length, i) => sum + (length - 1) * strides[i]!, 1)
  const title = `tensor ${shown(name)}`
  if (!place) throw invalid(path, `Expected the storage ${shown(storage.key)} of ${title} but the file has none`)
  const bytes = storage.count * (storage.dtype === undefined ? 1 : width)
  if (place.problem === undefined && place.byteLength !== bytes) {
    throw invalid(path, `Expected ${bytes} bytes for the storage of ${title} but received ${place.byteLength}`)
  }
  if ((offset + span) * width > bytes) {
    throw invalid(path, `Expected ${title} ${shown(shape)} to end within its storage of ${bytes} bytes but it begins at ${offset * width}`)
  }
  const strided = isContiguous(tensor) || span === 0 ? undefined : `its rows do not lie one after the other (strides ${shown(strides)})`
  const problem = place.problem ?? strided
  return { name, dtype, shape, offset: place.offset + offset * width, byteLength: span * width, ...(problem !== undefined && { problem }) }
}

/** A tensor that is named but whose bytes are nowhere; no type of numbers is named so. */
const nowhere = (name: string, { shape, problem }: UnstoredTensor): CheckpointTensor => ({
  ...{ name, dtype: 'OTHER', shape, offset: 0, byteLength: 0, problem },
})

/** Lists the tensors of a pickled dict. `places`: finds the bytes of storages. */
async function tensorsOf(value: unknown, path: string, places: (storages: Storage[]) => Promise<Map<string, Place>>): Promise<Checkpoint> {
  const { state, metadata } = stateOf(value, path)
  const storages = [...state].flatMap(([, value]) => (value instanceof StoredTensor ? [value.storage] : []))
  // Tensors that share a storage name it anew each.
  const found = await places([...new Map(storages.map((storage) => [storage.key, storage])).values()])
  const tensors = [...state].flatMap(([name, value]) => {
    if (value instanceof StoredTensor) return [placed(name, value, found.get(value.storage.key), path)]
    return value instanceof UnstoredTensor ? [nowhere(name, value)] : []
  })
  return { path, metadata, tensors }
}

/** Lists a zip's members by their names. */
async function membersOf(zip: ZipFile, path: string): Promise<Map<string, Entry>> {
  const members = new Map<string, Entry>()
  for await (const entry of zip.eachEntry()) {
    if (members.has(entry.fileName)) throw invalid(path, `Expected members of different names but two are ${shown(entry.fileName)}`)
    members.set(entry.fileName, entry)
    if (members.size > MOST_STORAGES) throw invalid(path, `Expected at most ${MOST_STORAGES} members but the zip has more`)
  }
  return members
}

/** Finds a member's bytes. */
async function placeOf(zip: ZipFile, member: Entry): Promise<Place> {
  const { fileDataStart: offset } = await zip.readLocalFileHeaderPromise(member, { minimal: true })
  const problem =
    member.generalPurposeBitFlag & FLAG_ENCRYPTED ? 'it is encrypted' : member.compressionMethod ? 'it is compressed' : undefined
  return { offset, byteLength: member.compressedSize, ...(problem !== undefined && { problem }) }
}

/** Reads a small member whole. */
async function readMember(file: FileHandle, zip: ZipFile, member: Entry, most: number, path: string): Promise<Uint8Array> {
  const { offset, byteLength, problem } = await placeOf(zip, member)
  const title = `the member ${shown(member.fileName)}`
  if (problem !== undefined) throw unreadable(path, `${title} as torch.save writes it but ${problem}`)
  if (byteLength > most) throw invalid(path, `Expected at most ${most} bytes for ${title} but it has ${byteLength}`)
  return readRange(file, offset, byteLength)
}

/** Storages may share no bytes: a file would stand for more than it has. */
function checkOverlaps(places: Map<string, Place>, path: string): void {
  let end = 0
  for (const [key, { offset, byteLength }] of [...places].sort(([, a], [, b]) => a.offset - b.offset)) {
    if (offset < end) throw invalid(path, `Expected storage ${shown(key)} to begin at byte ${end} or later but it begins at ${offset}`)
    end = offset + byteLength
  }
}

/** Reads for yauzl, whose own reader of files throws where nobody catches it when an offset is absurd. */
class ZipReader extends RandomAccessReader {
  constructor(private readonly file: FileHandle) {
    super()
  }

  override read(
    buffer: Buffer,
    offset: number,
    length: number,
    position: number,
    callback: (error: Error | null, bytesRead?: number) => void,
  ) {
    this.file.read(buffer, offset, length, position).then(({ bytesRead }) => callback(null, bytesRead), callback)
  }
}

async function readZip(file: FileHandle, path: string, turn: Turn): Promise<Checkpoint> {
  const { size } = await file.stat()
  const zip = await fromRandomAccessReaderPromise(new ZipReader(file), size, { autoClose: false })
  const members = await membersOf(zip, path)
  const pickle = [...members.values()].find(({ fileName }) => /(^|\/)data\.pkl$/.test(fileName))
  if (!pickle) throw unreadable(path, 'a zip that torch.save wrote but this one has no member data.pkl')
  const folder = pickle.fileName.slice(0, -'data.pkl'.length)
  const order = members.get(`${folder}byteorder`)
  const byteorder = order ? Buffer.from(await readMember(file, zip, order, 16, path)).toString('latin1') : 'little'
  if (byteorder !== 'little') throw unreadable(path, `little-endian numbers but received ${shown(byteorder)}`)
  const bytes = await readMember(file, zip, pickle, MOST_PICKLE, path)
  const value = await new Unpickler(bytes, (problem) => invalid(path, problem)).load(turn)
  return tensorsOf(value, path, async (storages) => {
    const places = new Map<string, Place>()
    for (const { key } of storages) {
      const member = members.get(`${folder}data/${key}`)
      if (member) places.set(key, await placeOf(zip, member))
    }
    checkOverlaps(places, path)
    return places
  })
}

class Ended extends Error {}

/** Reads the pickles at a file's beginning from its first bytes: all there is before the storages. Throws `Ended` where these do not suffice. */
async function readPickles(bytes: Uint8Array, path: string, turn: Turn) {
  const pickles = new Unpickler(
    bytes,
    (problem) => invalid(path, problem),
    () => new Ended(),
  )
  const received = "PyTorch's magic number at its beginning but received another pickle"
  if ((await pickles.load(turn)) !== MAGIC) throw unreadable(path, received)
  const protocol = await pickles.load(turn)
  if (protocol !== PROTOCOL) throw unreadable(path, `version ${PROTOCOL} of PyTorch's format but received ${shown(protocol)}`)
  const system = await pickles.load(turn)
  if (system instanceof Dict && system.get('little_endian') === false) throw unreadable(path, 'little-endian numbers but received others')
  const value = await pickles.load(turn)
  const { storages } = pickles
  const keys = await pickles.load(turn)
  if (!Array.isArray(keys) || keys.length > MOST_STORAGES) throw invalid(path, 'Expected a list of storages behind the pickles')
  return { value, storages, keys: keys as unknown[], end: pickles.at }
}

/** Finds where storages lie, each behind the count of its elements. */
async function followStorages(file: FileHandle, path: string, begin: number, keys: unknown[], storages: Map<string, Storage>) {
  const { size } = await file.stat()
  const places = new Map<string, Place>()
  let at = begin
  for (const key of keys) {
    const storage = storages.get(key as string)
    const width = storage && byteWidth(storage.dtype ?? 'U8')
    if (!storage || width === undefined) throw unreadable(path, `storages of known types but received ${shown(key)} of another`)
    const head = await readRange(file, at, 8)
    const count = head.length === 8 ? Number(new DataView(head.buffer).getBigInt64(0, true)) : -1
    const byteLength = count * width
    if (!isCount(count) || count !== storage.count || at + 8 + byteLength > size) {
      throw invalid(path, `Expected ${storage.count} elements of storage ${shown(key)} at byte ${at} of ${size} but received ${count}`)
    }
    places.set(key as string, { offset: at + 8, byteLength })
    at += 8 + byteLength
  }
  return places
}

async function readLegacy(file: FileHandle, path: string, turn: Turn): Promise<Checkpoint> {
  const { size } = await file.stat()
  for (let length = FIRST_PIECE; ; length *= 4) {
    const bytes = await readRange(file, 0, Math.min(length, size, MOST_PICKLE))
    try {
      const { value, storages, keys, end } = await readPickles(bytes, path, turn)
      return await tensorsOf(value, path, () => followStorages(file, path, end, keys, storages))
    } catch (error) {
      if (!(error instanceof Ended)) throw error
      if (length >= size) throw invalid(path, 'Expected whole pickles but the file ends early')
      if (length >= MOST_PICKLE) throw invalid(path, `Expected pickles of at most ${MOST_PICKLE} bytes but they are longer`)
    }
  }
}

/**
 * Lists the tensors of a file of `torch.save`. `what`: what was expected. Throws `PICKLE_INVALID` for a damaged file, `PICKLE_UNSUPPORTED` for
 * one that cannot be read, and as `openFile`.
 */
export async function readTorchFile(path: string, what: string, isZip: boolean): Promise<Checkpoint> {
  const file = await openFile(path, what)
  try {
    return await (isZip ? readZip : readLegacy)(file, path, turns())
  } catch (cause) {
    if (cause instanceof LorafuseError) throw cause
    if ((cause as NodeJS.ErrnoException).syscall !== undefined) throw pathError(what, path, cause)
    // The zip reader's errors say what is wrong, in words.
    throw invalid(
      path,
      `Expected a zip that torch.save wrote but received another: ${cut(cause instanceof Error ? cause.message : String(cause))}`,
    )
  } finally {
    await file.close()
  }
}

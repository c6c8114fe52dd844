/** Hashes the weights of a network by what they say, not by where they lie: alike in a folder, in one file, and under any name. */
import { createHash } from 'node:crypto'
import type { FileHandle } from 'node:fs/promises'
import { LorafuseError } from '../errors.js'
import { openFile, pathError, readRange } from '../files/read.js'
import type { Network, WeightEntry } from '../native.js'

const WHAT = 'a weight file'
/** How many bytes are read and hashed between two turns: about a millisecond. */
const PIECE = 2 ** 20
const BYTES: Record<WeightEntry['dtype'], number> = { F32: 4, F16: 2, BF16: 2, F8_E4M3: 1, F8_E5M2: 1 }

/** What files hold of a network beside its weights: old ones have numbers of positions, in some of them as floats. */
const isWeight = ({ name }: WeightEntry) => !name.endsWith('.position_ids')

/** OpenCLIP's projection of the pooled text, which transformers holds transposed under a name that ends in `.weight`. */
const TRANSPOSED = 'text_projection'

function transposed(bytes: Uint8Array, rows: number, columns: number, size: number): Uint8Array {
  const turned = new Uint8Array(bytes.length)
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const from = (row * columns + column) * size
      turned.set(bytes.subarray(from, from + size), (column * rows + row) * size)
    }
  }
  return turned
}

function truncated(path: string, { name }: WeightEntry, wanted: number, received: number): LorafuseError {
  const message = `Expected ${wanted} bytes of ${name} in ${path} but received ${received}; download it again`
  return new LorafuseError('WEIGHTS_TRUNCATED', message)
}

/** A file that is being hashed, and where it is read to: while one piece is hashed, the next is read. */
interface Source {
  file: FileHandle
  path: string
  buffers: [Uint8Array, Uint8Array]
  signal: AbortSignal | undefined
}

async function hashTensor({ file, path, buffers, signal }: Source, tensor: WeightEntry, length: number): Promise<string> {
  const hash = createHash('sha256')
  const read = (begin: number, i: number) => file.read(buffers[i % 2]!, 0, Math.min(PIECE, length - begin), tensor.offset + begin)
  let next = length > 0 ? read(0, 0) : undefined
  for (let begin = 0, i = 1; next; i++) {
    const { bytesRead, buffer } = await next
    signal?.throwIfAborted()
    if (bytesRead === 0) throw truncated(path, tensor, length, begin)
    begin += bytesRead
    next = begin < length ? read(begin, i) : undefined
    hash.update(buffer.subarray(0, bytesRead))
  }
  return hash.digest('hex')
}

async function hashTransposed({ file, path }: Source, tensor: WeightEntry, length: number): Promise<string> {
  const bytes = await readRange(file, tensor.offset, length)
  if (bytes.length < length) throw truncated(path, tensor, length, bytes.length)
  const [rows = 1, columns = 1] = tensor.shape
  return createHash('sha256')
    .update(transposed(bytes, rows, columns, BYTES[tensor.dtype]))
    .digest('hex')
}

/** Describes a tensor in one line: name, type, extents without those of a 1×1 kernel, and the hash of its bytes. */
async function lineOf(source: Source, tensor: WeightEntry): Promise<string> {
  const { name, dtype, shape } = tensor
  const length = shape.reduce((product, extent) => product * extent, BYTES[dtype])
  const line = (name: string, shape: number[], hash: string) => `${name} ${dtype} ${shape.join().replace(/(,1)+$/, '')} ${hash}\n`
  if (name !== TRANSPOSED) return line(name, shape, await hashTensor(source, tensor, length))
  return line(`${name}.weight`, shape.toReversed(), await hashTransposed(source, tensor, length))
}

/** Returns the sha256, in hex, of a network's weights and config. Throws as `openFile`, `WEIGHTS_TRUNCATED`, or the signal's reason. */
export async function hashNetwork({ files, config }: Pick<Network, 'files' | 'config'>, signal?: AbortSignal): Promise<string> {
  const lines: string[] = []
  const buffers: Source['buffers'] = [new Uint8Array(PIECE), new Uint8Array(PIECE)]
  for (const { path, tensors } of files) {
    const file = await openFile(path, WHAT)
    try {
      const inOrder = tensors.filter(isWeight).sort((a, b) => a.offset - b.offset)
      for (const tensor of inOrder) lines.push(await lineOf({ file, path, buffers, signal }, tensor))
    } catch (cause) {
      signal?.throwIfAborted()
      throw pathError(WHAT, path, cause)
    } finally {
      await file.close()
    }
  }
  return createHash('sha256').update(lines.sort().join('')).update(JSON.stringify(config)).digest('hex')
}

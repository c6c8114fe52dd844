/** Hashes the weights of a network by what they say, not by where they lie: alike in a folder, in one file, and under any name. */
import { createHash, subtle } from 'node:crypto'
import type { FileHandle } from 'node:fs/promises'
import { LorafuseError } from '../errors.js'
import { openFile, pathError, readRange } from '../files/read.js'
import type { Network, WeightEntry } from '../native.js'

const WHAT = 'a weight file'
/** How many bytes are read and hashed at once, off the main thread. */
const PIECE = 2 ** 24
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

/** Describes a tensor in one line: name, type, extents without those of a 1×1 kernel, and the hashes of its pieces. */
async function lineOf(file: FileHandle, path: string, { name, dtype, shape, offset }: WeightEntry, signal?: AbortSignal): Promise<string> {
  const length = shape.reduce((product, extent) => product * extent, BYTES[dtype])
  const isTurned = name === TRANSPOSED && shape.length === 2
  const [rows = 1, columns = 1] = shape
  const hash = createHash('sha256')
  // A transposed tensor is read whole.
  const most = isTurned ? length : PIECE
  for (let begin = 0; begin < length; begin += most) {
    signal?.throwIfAborted()
    const wanted = Math.min(most, length - begin)
    const bytes = await readRange(file, offset + begin, wanted)
    if (bytes.length < wanted) {
      const message = `Expected ${wanted} bytes of ${name} in ${path} but received ${bytes.length}; download it again`
      throw new LorafuseError('WEIGHTS_TRUNCATED', message)
    }
    hash.update(new Uint8Array(await subtle.digest('SHA-256', isTurned ? transposed(bytes, rows, columns, BYTES[dtype]) : bytes)))
  }
  const extents = (isTurned ? [columns, rows] : shape).join().replace(/(,1)+$/, '')
  return `${isTurned ? `${name}.weight` : name} ${dtype} ${extents} ${hash.digest('hex')}\n`
}

/** Returns the sha256, in hex, of a network's weights and config. Throws as `openFile`, `WEIGHTS_TRUNCATED`, or the signal's reason. */
export async function hashNetwork({ files, config }: Pick<Network, 'files' | 'config'>, signal?: AbortSignal): Promise<string> {
  const lines: string[] = []
  for (const { path, tensors } of files) {
    const file = await openFile(path, WHAT)
    try {
      const inOrder = tensors.filter(isWeight).sort((a, b) => a.offset - b.offset)
      for (const tensor of inOrder) lines.push(await lineOf(file, path, tensor, signal))
    } catch (cause) {
      signal?.throwIfAborted()
      throw pathError(WHAT, path, cause)
    } finally {
      await file.close()
    }
  }
  return createHash('sha256').update(lines.sort().join('')).update(JSON.stringify(config)).digest('hex')
}

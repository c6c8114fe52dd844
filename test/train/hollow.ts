/** Fills the hollow files of `scripts/goldens/hollow.py`: whole models of drawn numbers that take a few kilobytes in the repository. */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { mkdir, mkdtemp, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gunzipSync } from 'node:zlib'
import { narrow, widen } from '../../lib/files/floats.js'
import { writeClipVocabulary } from '../fixtures/clip.js'
import { pattern } from './pattern.js'

const root = fileURLToPath(new URL('../../../', import.meta.url))
const fixtures = join(root, 'test/fixtures')
const SUFFIX = '.hollow.gz'

/** Numbers that belong to a place of a file: `scripts/goldens/hollow.py`, class Drawn. */
interface Fill {
  name: string
  shape: number[]
  mean: number
  deviation: number
  type: 'F16' | 'F32' | 'F8_E4M3' | 'F8_E5M2'
  offset: number
  transposed: boolean
}

/** Rounds to floats of 8 bits, ties to even. */
function rounded(values: Float32Array, type: 'F8_E4M3' | 'F8_E5M2'): Uint8Array {
  const known = widen(
    Uint8Array.from({ length: 128 }, (_, code) => code),
    type,
  )
  return Uint8Array.from(values, (value) => {
    const magnitude = Math.abs(value)
    let [low, high] = [0, known.findLastIndex((each) => Number.isFinite(each))]
    while (high - low > 1) {
      const middle = (low + high) >> 1
      if (known[middle]! <= magnitude) low = middle
      else high = middle
    }
    const [below, above] = [magnitude - known[low]!, known[high]! - magnitude]
    const code = below < above || (below === above && low % 2 === 0) ? low : high
    return code | (value < 0 || Object.is(value, -0) ? 0x80 : 0)
  })
}

const tables = new Map<string, Uint8Array>()

/** Rounds halves to floats of 8 bits, ties to even. */
export function toEight(halves: Uint16Array, type: 'F8_E4M3' | 'F8_E5M2'): Uint8Array {
  let table = tables.get(type)
  if (!table) {
    const every = Uint16Array.from({ length: 2 ** 16 }, (_, bits) => bits)
    table = rounded(widen(new Uint8Array(every.buffer), 'F16'), type)
    tables.set(type, table)
  }
  return Uint8Array.from(halves, (bits) => table[bits]!)
}

/** Draws the numbers, rounds them to f16, and then to the type that the file has. */
function numbers({ name, shape, mean, deviation, type, transposed }: Fill): Uint8Array {
  let values = pattern(
    name,
    shape.reduce((product, length) => product * length, 1),
    deviation,
  )
  if (mean !== 0) values = values.map((value) => mean + value)
  const [rows = 1, columns = 1] = shape
  if (transposed) values = values.map((_, i) => values[(i % rows) * columns + Math.floor(i / rows)]!)
  const half = narrow(values, 'F16')
  if (type === 'F16') return half
  if (type === 'F32') return narrow(widen(half, 'F16'), type)
  return toEight(new Uint16Array(half.buffer, half.byteOffset, half.length / 2), type)
}

async function filled(path: string): Promise<Uint8Array> {
  const raw = gunzipSync(await readFile(path))
  const end = raw.indexOf('\n')
  const { sha256, fills } = JSON.parse(raw.subarray(0, end).toString()) as { sha256: string; fills: Fill[] }
  const bytes = raw.subarray(end + 1)
  for (const fill of fills) bytes.set(numbers(fill), fill.offset)
  assert.equal(createHash('sha256').update(bytes).digest('hex'), sha256, `${path} is filled with the numbers that it was emptied of`)
  return bytes
}

/** Makes a file or folder in `build/filled` once, whoever asks first; `sources`: what it is made of. Returns its path. */
async function once(name: string, sources: string[], make: (path: string) => Promise<void>): Promise<string> {
  const hash = createHash('sha256')
  for (const source of sources) hash.update(source).update(await readFile(source))
  const parent = join(root, 'build/filled')
  const folder = join(parent, hash.digest('hex').slice(0, 12))
  const path = join(folder, name)
  if (await stat(path).catch(() => undefined)) return path
  await mkdir(parent, { recursive: true })
  const temporary = await mkdtemp(join(parent, 'partial-'))
  await make(join(temporary, name))
  await rename(temporary, folder).catch(async (cause: unknown) => {
    await rm(temporary, { recursive: true, force: true })
    // Another process was faster.
    if (!(await stat(path).catch(() => undefined))) throw cause
  })
  return path
}

/** Returns the diffusers folder of a hollow golden model: `golden-sd1-model`, `golden-sd2`, `golden-sdxl-model`; of the UNet of `golden-ssd` or `golden-vega`. */
export async function goldenModel(name: string): Promise<string> {
  const from = join(fixtures, name, 'model')
  const entries = await readdir(from, { recursive: true, withFileTypes: true })
  const files = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name))
  return once(name, files.sort(), async (to) => {
    for (const file of files) {
      const path = join(to, file.slice(from.length + 1))
      await mkdir(dirname(path), { recursive: true })
      if (file.endsWith(SUFFIX)) await writeFile(path.slice(0, -SUFFIX.length), await filled(file))
      else await writeFile(path, await readFile(file))
      if (basename(file) === 'tokenizer_config.json') await writeClipVocabulary(dirname(path))
    }
  })
}

/** Returns a whole golden model as one file, as `scripts/goldens/layouts.py` wrote it: e.g. `sd1.safetensors`, `sd1.ckpt`. */
export async function singleFile(name: string): Promise<string> {
  const from = join(fixtures, 'single-files', `${name}${SUFFIX}`)
  return once(name, [from], async (to) => {
    await mkdir(dirname(to), { recursive: true })
    await writeFile(to, await filled(from))
  })
}

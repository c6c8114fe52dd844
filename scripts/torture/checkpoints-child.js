// Runs rounds of checkpoints by their numbers: each reads a hundred files that are damaged or made up.
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { readCheckpoint, weightsOf } from '../../dist/lib/models/checkpoint.js'
import { networksIn } from '../../dist/lib/models/single-file.js'
import { damageBytes, damageSafetensors, joinSafetensors } from './mutations.js'
import { holds } from './process.js'
import { judgeError, Random, root } from './rig.js'

const FILES = 100
/** No file of a few kilobytes takes longer, on a busy machine. */
const SLOW = 10_000

const [path, seed] = process.argv.slice(2)
const pickles = readdirSync(`${root}test/fixtures/pickles`)
  .filter((name) => name.endsWith('.pt'))
  .map((name) => readFileSync(`${root}test/fixtures/pickles/${name}`))

/** A safetensors file with some of the names of a checkpoint. */
function small() {
  const names = JSON.parse(readFileSync(`${root}test/fixtures/golden-names/ldm.json`, 'utf8'))
  const prefixes = { sd15: 'model.diffusion_model.', vae: 'first_stage_model.', openclip: 'cond_stage_model.model.' }
  let end = 0
  const entries = Object.entries(prefixes).flatMap(([network, prefix]) =>
    Object.values(names[network]).map((name) => {
      const begin = end
      end += 2 * 8
      return [`${prefix}${name}.weight`, { dtype: 'F16', shape: [2, 2, 2, 1], data_offsets: [begin, end] }]
    }),
  )
  return joinSafetensors(Object.fromEntries(entries), Buffer.alloc(end))
}

const safetensors = small()

/** The place of the pickle in a file of torch.save: a zip's member, or all that is before the storages. */
function pickleIn(file) {
  const begin = file.indexOf(Buffer.from([0x80, 2]))
  const end = file.indexOf('.PK', begin)
  return [begin, end < 0 ? file.length : end + 1]
}

const OPCODES = '(.012FGIJKLMNPQRSTUVX\\abcdeghijlopqrstu})]'.split('').map((letter) => letter.charCodeAt(0))
const LATER = Array.from({ length: 24 }, (_, i) => 0x80 + i)
const GLOBALS = ['torch._utils\n_rebuild_tensor_v2', 'torch\nFloatStorage', 'collections\nOrderedDict', 'os\nsystem', 'builtins\neval']

/** A piece of a pickle: an opcode, mostly with what belongs behind it. */
function piece(random) {
  const text = random.pick(['storage', 'state_dict', '0', 'cpu', 'a'.repeat(random.below(300))])
  return random.pick([
    () => Buffer.from([random.pick(OPCODES)]),
    () => Buffer.from([random.pick(LATER), random.below(256)]),
    () => Buffer.from(`c${random.pick(GLOBALS)}\n`),
    () => Buffer.from([0x58, text.length & 255, text.length >> 8, 0, 0, ...Buffer.from(text)]),
    () => Buffer.from([random.pick([0x71, 0x68]), random.below(4)]),
    () => Buffer.from([0x4a, ...Array.from({ length: 4 }, () => random.pick([0, 0, 1, 255]))]),
    () => Buffer.from(random.pick(['}(', '](', 'u', 'e', 't', 'R', 'Q', 'b', ')R', 'q\0', 'h\0', '0h\0'])),
  ])()
}

/** Puts other bytes in the place of a file's pickle; sizes in a zip's directory stay as they were. */
function withPickle(file, change) {
  const [begin, end] = pickleIn(file)
  const changed = change(file.subarray(begin, end))
  const fitted =
    changed.length > end - begin ? changed.subarray(0, end - begin) : Buffer.concat([changed, file.subarray(begin + changed.length, end)])
  return Buffer.concat([file.subarray(0, begin), fitted, file.subarray(end)])
}

const KINDS = {
  safetensors: (random) => damageSafetensors(safetensors, random),
  file: (random) => damageBytes(random.pick(pickles), random),
  pickle: (random) => withPickle(random.pick(pickles), (bytes) => damageBytes(bytes, random)),
  'made up': (random) =>
    withPickle(random.pick(pickles), () => {
      const pieces = Array.from({ length: 1 + random.below(40) }, () => piece(random))
      return Buffer.concat([Buffer.from([0x80, 2]), ...pieces, Buffer.from('.')])
    }),
}

/** Reads a file as a model's is read; resolves to what came of it, and what should not have. */
async function read(bytes) {
  writeFileSync(path, bytes)
  const began = performance.now()
  let outcome = 'read'
  let problem
  try {
    const checkpoint = await readCheckpoint(path, 'a checkpoint')
    const beyond = checkpoint.tensors.find(({ offset, byteLength }) => !(offset >= 0 && offset + byteLength <= statSync(path).size))
    if (beyond) problem = `tensor ${beyond.name} beyond the end of the file`
    weightsOf(checkpoint, (name) => name)
    networksIn(checkpoint)
  } catch (error) {
    outcome = error?.code ?? 'no code'
    problem = judgeError(error)
  }
  const took = performance.now() - began
  if (took > SLOW) problem ??= `${Math.round(took / 1000)} s`
  if (existsSync('hostile-was-here')) problem ??= 'a call that a pickle asked for'
  return { outcome, problem }
}

process.on('message', async (index) => {
  globalThis.gc?.()
  const before = holds().memory
  const counts = []
  let problem
  for (let i = 0; i < FILES && !problem; i++) {
    const random = new Random(seed, 'checkpoints', index, i)
    const kind = Object.keys(KINDS)[i % 4]
    const result = await read(KINDS[kind](random))
    counts.push(`${kind}: ${result.outcome}`)
    if (result.problem) problem = `file ${i}, ${kind}: ${result.problem}`
  }
  process.send({ counts, problem, peak: holds().memory - before })
})

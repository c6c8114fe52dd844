// Training steps of SD1.5, SD2.1 or SDXL (random weights, LoRA on attention, batch 1), ours against PyTorch + diffusers + peft, both in f32
// on the CPU or in mixed precision of fp16 on a GPU, if no other precision is given: both processes hold the same model and inputs and step
// in turn, A B A B, so that the machine's moods fall on both. In mixed precision PyTorch holds the model in that type and the LoRA in f32,
// and computes under autocast, as kohya and diffusers do.
//   npm run bench -- [--family sdxl] --resolution 512 --steps 7 [--gradient-checkpointing] [--device cuda] [--precision bf16]
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs'
import { availableParallelism, cpus, loadavg, tmpdir, totalmem } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { readHeader, writeSafetensors } from '../../dist/lib/files/safetensors.js'
import { pattern } from '../../dist/test/train/pattern.js'

const here = fileURLToPath(new URL('.', import.meta.url))
const python = join(here, '../python.sh')
const { values: options } = parseArgs({
  options: {
    device: { type: 'string', default: 'cpu' },
    // f32, fp16 or bf16.
    precision: { type: 'string' },
    resolution: { type: 'string', default: '512' },
    steps: { type: 'string', default: '7' },
    warmups: { type: 'string', default: '2' },
    rank: { type: 'string', default: '16' },
    // Blocks are computed again for their gradients, on both sides.
    'gradient-checkpointing': { type: 'boolean', default: false },
    threads: { type: 'string', default: String(availableParallelism()) },
    family: { type: 'string', default: 'sd1' },
    // A folder with unet/: made with random weights where there is none.
    model: { type: 'string' },
    // TFLOP of one step, counted from the architecture; 0 = unknown.
    tflop: { type: 'string' },
  },
})
if (!['cpu', 'cuda'].includes(options.device)) throw new Error(`Expected --device cpu or cuda but received ${options.device}`)
const families = { sd1: 'SD1.5', sd2: 'SD2.1', sdxl: 'SDXL' }
if (!Object.hasOwn(families, options.family))
  throw new Error(`Expected --family ${Object.keys(families).join(', ')} but received ${options.family}`)
const model = options.model ?? join(tmpdir(), `lorafuse-bench-${options.family === 'sd1' ? 'sd15' : options.family}`)
const onGpu = options.device === 'cuda'
const computes = options.precision ?? (onGpu ? 'fp16' : 'f32')
if (!['f32', 'fp16', 'bf16'].includes(computes)) throw new Error(`Expected --precision f32, fp16 or bf16 but received ${computes}`)
const number = (name) => Number(options[name])
// Counted for SD1.5, rank 16, no weight gradients of frozen layers.
const counted = options.family === 'sd1' ? { 512: 1.72, 256: 0.38 } : {}

/** A child that answers each line with one line of JSON. */
function start(command, args) {
  const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] })
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const read = async () => {
    const { value, done } = await lines.next()
    if (done) throw new Error(`${command} ${args[0]} ended early`)
    return JSON.parse(value)
  }
  const ask = (line) => {
    child.stdin.write(`${line}\n`)
    return read()
  }
  return { read, ask, end: () => child.stdin.end() }
}

function run(command, args) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: 'inherit' })
    child.on('exit', (code) => (code === 0 ? resolve() : reject(new Error(`${command} ${args[0]} failed with ${code}`))))
  })
}

/** Latents, noise, text embeddings and adapters with a live up, the same for both. */
async function writeInputs(path, unet) {
  const config = JSON.parse(readFileSync(join(unet, 'config.json'), 'utf8'))
  const side = number('resolution') / 8
  const rank = number('rank')
  const tensor = (name, shape, deviation = 1) => ({
    name,
    dtype: 'F32',
    shape,
    data: pattern(
      name,
      shape.reduce((product, length) => product * length, 1),
      deviation,
    ),
  })
  const given = (name, shape, ...data) => ({ name, dtype: 'F32', shape, data: Float32Array.from(data) })
  const { tensors } = await readHeader(join(unet, 'diffusion_pytorch_model.safetensors'))
  const adapters = tensors.flatMap(({ name, shape }) => {
    const found = /^(.*\.attn[12]\.to_(?:q|k|v|out\.0))\.weight$/.exec(name)
    if (!found) return []
    const [outFeatures, inFeatures] = shape
    return [
      tensor(`${found[1]}.down`, [rank, inFeatures], 1 / Math.sqrt(3 * inFeatures)),
      tensor(`${found[1]}.up`, [outFeatures, rank], 0.01),
    ]
  })
  // Timestep 500 of SD1's schedule: alphas_cumprod 0.2763.
  await writeSafetensors(path, [
    tensor('latents', [1, side, side, 4]),
    tensor('noise', [1, side, side, 4]),
    tensor('context', [1, 77, config.cross_attention_dim]),
    ...added(config, tensor, given),
    given('timesteps', [1], 500),
    given('coefficients', [1, 2], Math.sqrt(0.2763), Math.sqrt(1 - 0.2763)),
    ...adapters,
  ])
}

/** What SDXL's UNet takes beside the text: the pooled text, and the sizes of the image, the crop and the picture. */
function added({ addition_embed_type: kind, addition_time_embed_dim: width, projection_class_embeddings_input_dim: all }, tensor, given) {
  if (kind !== 'text_time') return []
  const side = number('resolution')
  return [tensor('pooled', [1, all - 6 * width]), given('time_ids', [1, 6], side, side, 0, 0, side, side)]
}

const median = (values) => {
  const sorted = [...values].sort((a, b) => a - b)
  return (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2
}

const unet = join(model, 'unet')
if (!existsSync(join(unet, 'diffusion_pytorch_model.safetensors'))) {
  mkdirSync(model, { recursive: true })
  await run(python, [join(here, 'make-model.py'), model, '--family', options.family, '--only', 'unet'])
}
const inputs = join(tmpdir(), `lorafuse-bench-${process.pid}.safetensors`)
await writeInputs(inputs, unet)

const [load] = loadavg()
const settings = JSON.stringify({
  recompute: options['gradient-checkpointing'],
  ...{ unet, inputs, device: options.device, computes, rank: number('rank'), threads: number('threads'), learningRate: 1e-4 },
  // Fixed on both sides, so that they compute the same.
  lossScale: computes === 'fp16' ? 1024 : 1,
})
const sides = [
  { name: 'PyTorch', process: start(python, [join(here, 'pytorch.py'), settings]), steps: [] },
  { name: 'lorafuse', process: start(process.execPath, [join(here, 'lorafuse.js'), settings]), steps: [] },
]
const [theirs, ours] = sides

const unit = onGpu ? 'ms' : 's'
const shown = (seconds) => (seconds * (onGpu ? 1000 : 1)).toFixed(2)

/** Fills in what each side answers; returns GFLOP/s of a matrix product. */
async function measure() {
  for (const side of sides) side.ready = await side.process.read()
  const { gflops } = await theirs.process.ask('calibrate')
  for (let i = 0; i < number('warmups') + number('steps'); i++) {
    for (const side of sides) side.steps.push(await side.process.ask('step'))
    const each = sides.map(({ name, steps }) => `${name} ${shown(steps[i].seconds)} ${unit}, loss ${steps[i].loss.toFixed(6)}`)
    console.error(`step ${i + 1}: ${each.join('; ')}`)
  }
  for (const side of sides) side.memory = await side.process.ask('memory')
  return gflops
}

let gflops
try {
  gflops = await measure()
} finally {
  for (const side of sides) side.process.end()
  rmSync(inputs)
}

const flags = /^flags\s*:(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1]?.split(' ') ?? []
const features = flags.filter((flag) => /^(avx2|fma|avx512(f|_bf16|_vnni)|amx_bf16)$/.test(flag))
console.log(`${cpus()[0]?.model.trim()}, ${features.join(' ')}; ${options.threads} threads, ${Math.round(totalmem() / 2 ** 30)} GiB`)
for (const { name, ready } of sides) console.log(`${name}: ${ready.about}`)
console.log(
  `${families[options.family]} (${model}), ${options.resolution} px, batch 1, rank ${options.rank} on attention (${ours.ready.adapters} parameters), ${computes}${options['gradient-checkpointing'] ? ', gradient checkpointing' : ''}`,
)
console.log(
  `${options.steps} steps each in turn after ${options.warmups} warm-ups; matrix product ${gflops.toFixed(0)} GFLOP/s; load before ${load?.toFixed(1)}`,
)
const where = onGpu ? 'memory on the GPU' : 'RSS'
console.log(`\n| | median ${unit} | min ${unit} | first ${unit} | of matrix product | peak ${where} MiB |\n|---|---|---|---|---|---|`)
const tflop = options.tflop === undefined ? (counted[options.resolution] ?? 0) : number('tflop')
for (const side of sides) {
  const seconds = side.steps.slice(number('warmups')).map((step) => step.seconds)
  side.median = median(seconds)
  const share = tflop > 0 ? `${((tflop * 1e5) / side.median / gflops).toFixed(0)} %` : '–'
  const cells = [side.median, Math.min(...seconds), side.steps[0].seconds].map(shown)
  console.log(`| ${[side.name, ...cells, share, Math.round(side.memory.peakKiB / 1024)].join(' | ')} |`)
}
console.log(`| ratio | ${(ours.median / theirs.median).toFixed(3)} | | | | ${(ours.memory.peakKiB / theirs.memory.peakKiB).toFixed(3)} |`)
const mib = Object.entries(ours.memory.plan).map(([kind, bytes]) => `${kind} ${Math.round(bytes / 2 ** 20)}`)
console.log(`\nlorafuse plans, MiB: ${mib.join(', ')}`)
const off = (name) => Math.max(...ours.steps.map((step, i) => Math.abs(step[name] / theirs.steps[i][name] - 1)))
console.log(`largest relative difference: loss ${off('loss').toExponential(1)}, gradient norm ${off('gradNorm').toExponential(1)}`)
// In fp16 both round to 11 bits on their ways: ten times as far apart; in bf16 to 8.
const allowed = { f32: { loss: 1e-4, gradNorm: 1e-3 }, fp16: { loss: 1e-3, gradNorm: 1e-2 }, bf16: { loss: 1e-2, gradNorm: 1e-1 } }[
  computes
]
if (!(off('loss') <= allowed.loss && off('gradNorm') <= allowed.gradNorm)) {
  console.error('The two do not compute the same: the times mean nothing.')
  process.exitCode = 1
}

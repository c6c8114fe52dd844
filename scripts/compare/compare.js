// The way of a LoRA into other tools: trains a few steps on the bundled model, or on a small random one of a family, lets diffusers load the
// file, and compares what both draw with it from the same latents.
//   npm run compare -- [--family sdxl] [--conv-rank 2] [--text-encoder-lr 2e-3] [--network-format peft]
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { Pipeline } from '../../dist/lib/draw/pipeline.js'
import { writeSafetensors } from '../../dist/lib/files/safetensors.js'
import { train } from '../../dist/lib/index.js'
import { normal } from '../../dist/lib/random.js'
import { goldenModel } from '../../dist/test/train/hollow.js'

const root = fileURLToPath(new URL('../..', import.meta.url))
const { values: options } = parseArgs({
  options: {
    // One of the golden models; the bundled model without it.
    family: { type: 'string' },
    model: { type: 'string' },
    images: { type: 'string', default: join(root, 'examples/emoji') },
    size: { type: 'string', default: '128' },
    steps: { type: 'string', default: '20' },
    cfg: { type: 'string', default: '4' },
    'train-steps': { type: 'string', default: '20' },
    targets: { type: 'string', default: 'default' },
    // With it convolutions are trained, too.
    'conv-rank': { type: 'string' },
    'network-format': { type: 'string', default: 'kohya' },
    // With it text encoders are trained, too.
    'text-encoder-lr': { type: 'string' },
    limit: { type: 'string', default: '1e-5' },
    threads: { type: 'string', default: '2' },
  },
})
const number = (name) => Number(options[name])
const size = number('size')
const families = { sd1: 'golden-sd1-model', sd2: 'golden-sd2', sdxl: 'golden-sdxl-model' }
if (options.family !== undefined && !Object.hasOwn(families, options.family)) {
  throw new Error(`Expected --family ${Object.keys(families).join(', ')} but received ${options.family}`)
}
const small = options.family === undefined ? join(root, 'examples/tiny-sd') : await goldenModel(families[options.family])
const model = options.model ?? small
const request = {
  prompt: 'a 3d emoji of a banana on a blue background',
  negativePrompt: 'red',
  steps: number('steps'),
  cfg: number('cfg'),
  sampler: 'DDIM',
  seed: 5,
  clipSkip: 1,
}
const scale = 0.8
const folder = mkdtempSync(join(tmpdir(), 'lorafuse-compare-'))

/** The latents at the end and the picture before it is rounded to bytes, as the pipeline decodes them. */
async function draw(pipeline, references) {
  await pipeline.apply(references)
  const { session } = pipeline
  const found = {}
  const value = async (network, name, inputs, settings) => {
    const results = await Object.getPrototypeOf(session).run.call(session, network, name, inputs, settings)
    if (name !== 'decode') return results
    found.latents = inputs.latents.data.map((value) => value * pipeline.model.scalingFactor)
    found.image = results[0].data
    return results
  }
  Object.defineProperty(session, 'run', { value, configurable: true })
  await pipeline.draw({ ...request, width: size, height: size })
  delete session.run
  return found
}

async function ours(lora, path) {
  const pipeline = await Pipeline.open({ model, device: 'cpu', precision: 'f32', threads: number('threads') })
  try {
    const side = size / 8
    const tensor = (name, data, height, channels) => ({ name, dtype: 'F32', shape: [1, height, height, channels], data })
    const tensors = [tensor('initial', normal({ seed: request.seed, stream: 'latents' }, side * side * 4), side, 4)]
    for (const [name, references] of [
      ['plain', []],
      ['adapted', [{ path: lora, te: scale, unet: scale }]],
    ]) {
      const { latents, image } = await draw(pipeline, references)
      tensors.push(tensor(`${name}_latents`, latents, side, 4), tensor(`${name}_image`, image, size, 3))
    }
    await writeSafetensors(path, tensors)
  } finally {
    await pipeline[Symbol.asyncDispose]()
  }
}

function theirs(lora, path) {
  const { prompt, negativePrompt: negative, steps, cfg } = request
  const settings = JSON.stringify({ model, lora, ours: path, prompt, negative, steps, cfg, scale, width: size, height: size })
  const script = join(root, 'scripts/compare/with_diffusers.py')
  const { status, stdout } = spawnSync(join(root, 'scripts/python.sh'), [script, settings], {
    stdio: ['ignore', 'pipe', 'inherit'],
    encoding: 'utf8',
  })
  if (status !== 0) throw new Error(`${script} failed with ${status}`)
  return JSON.parse(stdout.trim().split('\n').at(-1))
}

try {
  await train({
    model,
    images: options.images,
    output: folder,
    name: 'compare',
    resolution: size,
    bucketMin: size,
    steps: number('train-steps'),
    rank: 4,
    alpha: 2,
    networkFormat: options['network-format'],
    ...(options['text-encoder-lr'] === undefined ? {} : { textEncoderLr: number('text-encoder-lr') }),
    targets: options.targets,
    ...(options['conv-rank'] === undefined ? {} : { convRank: number('conv-rank'), convAlpha: 1 }),
    learningRate: 2e-3,
    seed: 1,
    saveEvery: 0,
    device: 'cpu',
    threads: number('threads'),
  })
  const lora = join(folder, 'compare.safetensors')
  const path = join(folder, 'ours.safetensors')
  await ours(lora, path)
  const result = theirs(lora, path)
  console.log(JSON.stringify(result, null, 2))
  const errors = [...Object.values(result.withoutLora), ...Object.values(result.withLora)]
  const moved = Math.min(...Object.values(result.loraMoves))
  const worst = Math.max(...errors)
  console.log(
    `largest relative error ${worst.toExponential(1)} (limit ${options.limit}); the LoRA itself moves the result by ${moved.toExponential(1)}`,
  )
  if (!(worst <= number('limit') && moved > 100 * worst)) process.exitCode = 1
} finally {
  rmSync(folder, { recursive: true, force: true })
}

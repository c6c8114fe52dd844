// lorafuse's native session: one training step per line on stdin (see bench.js).
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { readHeader, readTensors } from '../../dist/lib/files/safetensors.js'
import { Config, unetConfig } from '../../dist/lib/models/configs.js'
import { native } from '../../dist/lib/native.js'

const settings = JSON.parse(process.argv[2])
const { device, computes, rank, threads, lossScale } = settings
const config = `${settings.unet}/config.json`
const weights = `${settings.unet}/diffusion_pytorch_model.safetensors`
const inputs = await readTensors(settings.inputs)
const data = (name) => inputs.get(name).data

const { Session, info } = native()
const session = new Session({
  threads,
  device,
  precision: computes,
  unet: {
    config: unetConfig(new Config(config, JSON.parse(readFileSync(config, 'utf8')))),
    files: [{ path: weights, tensors: (await readHeader(weights)).tensors }],
  },
})
const paths = session
  .modules()
  .map(({ path }) => path)
  .filter((path) => inputs.has(`${path}.down`))
session.attach(paths.map((path) => ({ path, rank, scale: 1 })))
const sides = paths.flatMap((path) => [data(`${path}.down`), data(`${path}.up`)])
const adapters = new Float32Array(sides.reduce((sum, side) => sum + side.length, 0))
let end = 0
for (const side of sides) {
  adapters.set(side, end)
  end += side.length
}
session.writeAdapters('weights', adapters)

const input = {
  shape: inputs.get('latents').shape.slice(0, 3),
  ...Object.fromEntries(['latents', 'noise', 'coefficients', 'timesteps', 'context'].map((name) => [name, data(name)])),
}
let updates = 0

async function step() {
  const start = performance.now()
  await session.load(input)
  updates += 1
  const optimizer = {
    learningRate: settings.learningRate,
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
    weightDecay: 1e-2,
    maxGradNorm: 1,
    lossScale,
  }
  await session.step(Float32Array.of(lossScale), { ...optimizer, step: updates })
  const gradNorm = await session.norm()
  const [loss] = await session.losses()
  return { loss, gradNorm, seconds: (performance.now() - start) / 1000 }
}

/** On a GPU: all that is allocated there, which is planned and stays the same. */
function memory() {
  const peak = /VmHWM:\s*(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))
  const plan = session.plan(input.shape, inputs.get('context').shape[1])
  return { peakKiB: device === 'cuda' ? plan.total / 1024 : Number(peak[1]), plan }
}

const reply = (value) => console.log(JSON.stringify(value))
const { cpu, features, cuda } = info()
const place = device === 'cuda' ? cuda.gpu : `${cpu} (${features.join(' ')})`
reply({ about: `lorafuse on ${place}, Node ${process.versions.node}`, adapters: adapters.length })
for await (const line of createInterface({ input: process.stdin })) reply(await { step, memory }[line.trim()]())
session.dispose()

// lorafuse's native session: one training step per line on stdin (see bench.js).
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { parameterCount } from '../../dist/lib/adapters/adapter.js'
import { readHeader, readTensors } from '../../dist/lib/files/safetensors.js'
import { ConfigReader, unetConfig } from '../../dist/lib/models/configs.js'
import { native } from '../../dist/lib/native.js'
import { optimizers } from '../../dist/lib/train/optimizers.js'

const settings = JSON.parse(process.argv[2])
const { device, computes, rank, threads, lossScale, recompute } = settings
const config = `${settings.unet}/config.json`
const weights = `${settings.unet}/diffusion_pytorch_model.safetensors`
const inputs = await readTensors(settings.inputs)
const data = (name) => inputs.get(name).data

const { Session, info } = native()
const session = new Session({
  threads,
  device,
  precision: computes,
  recompute,
  networks: {
    unet: {
      architecture: 'unet',
      config: unetConfig(new ConfigReader(config, JSON.parse(readFileSync(config, 'utf8')))),
      files: [{ path: weights, tensors: (await readHeader(weights)).tensors }],
    },
  },
})
const specs = session
  .layers('unet')
  .filter(({ path }) => inputs.has(`${path}.down`))
  .map(({ path }) => ({ network: 'unet', path, kind: 'lora', rank, scale: 1, group: 0 }))
const parameters = session.attach(specs, optimizers.adamw.spec)
const adapters = new Float32Array(parameterCount(parameters))
let end = 0
for (const { name } of parameters) {
  adapters.set(data(name), end)
  end += data(name).length
}
session.write('weights', adapters)

const names = ['latents', 'noise', 'coefficients', 'timesteps', 'context', 'pooled', 'time_ids'].filter((name) => inputs.has(name))
const [batch] = inputs.get('latents').shape
const input = {
  ...Object.fromEntries(names.map((name) => [name, { shape: inputs.get(name).shape, data: data(name) }])),
  target_coefficients: { shape: [batch, 2], data: Float32Array.from({ length: 2 * batch }, (_, i) => i % 2) },
}
const shapes = Object.fromEntries(Object.entries(input).map(([name, { shape }]) => [name, shape]))
// As a training does after caching, before its first step.
const preparing = performance.now()
await session.prepare(shapes)
const prepared = (performance.now() - preparing) / 1000
let updates = 0

async function step() {
  const start = performance.now()
  await session.load(input)
  updates += 1
  const groups = [{ learningRate: settings.learningRate, weightDecay: 1e-2 }]
  await session.step(Float32Array.of(lossScale), { groups, maxGradNorm: 1, lossScale, step: updates })
  const gradNorm = await session.norm()
  const [loss] = await session.losses()
  return { loss, gradNorm, seconds: (performance.now() - start) / 1000 }
}

/** On a GPU: all that is allocated there, which is planned and stays the same. */
function memory() {
  const peak = /VmHWM:\s*(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))
  const plan = session.planStep(shapes)
  return { peakKiB: device === 'cuda' ? plan.total / 1024 : Number(peak[1]), plan }
}

const reply = (value) => console.log(JSON.stringify(value))
const { cpu, cpuBf16, features, cuda } = info()
const place = device === 'cuda' ? cuda.gpu : `${computes === 'bf16' ? cpuBf16 : cpu} (${features.join(' ')})`
reply({ about: `lorafuse on ${place}, Node ${process.versions.node}; prepared in ${prepared.toFixed(1)} s`, adapters: adapters.length })
for await (const line of createInterface({ input: process.stdin })) reply(await { step, memory }[line.trim()]())
session.dispose()

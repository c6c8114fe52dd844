import { after, before, describe, it, type TestContext } from 'node:test'
import type { Model } from '../../lib/models/model.js'
import { readModel } from '../../lib/models/read.js'
import type { Inputs, Session } from '../../lib/native.js'
import {
  attach,
  compare,
  drawnInputs,
  type Golden,
  named,
  openSession,
  type Place,
  readGolden,
  swapped,
  type Targets,
  tensor,
  train,
} from './golden.js'
import { goldenModel } from './hollow.js'
import { pattern } from './pattern.js'

const families = [{ title: 'a whole SD1 model', name: 'golden-sd1-model' }]
const place: Place = { title: 'on the CPU', device: 'cpu', computes: 'f32' }
const LENGTH = 77

/** Joins rows of equal count along their channels. */
function joinChannels(parts: Float32Array[], rows: number): Float32Array {
  const widths = parts.map((part) => part.length / rows)
  const width = widths.reduce((sum, each) => sum + each, 0)
  const joined = new Float32Array(rows * width)
  let at = 0
  for (const [i, part] of parts.entries()) {
    const own = widths[i]!
    for (let row = 0; row < rows; row++) joined.set(part.subarray(row * own, (row + 1) * own), row * width + at)
    at += own
  }
  return joined
}

for (const { title, name } of families)
  describe(`${title}, ${place.title}, against diffusers and peft`, () => {
    let golden: Golden
    let model: Model
    let session: Session

    before(async () => {
      golden = await readGolden(name, await goldenModel(name))
      model = await readModel(golden.model)
      session = await openSession(golden, place)
    })
    after(() => session?.dispose())

    const check = (t: TestContext, group: string, values: Iterable<[string, Float32Array]>) => {
      const error = compare(golden, place, group, values)
      t.diagnostic(`relative error ${error.toExponential(1)}, PyTorch ${golden.naive[place.computes][group]?.toExponential(1)}`)
    }

    /** The text of a step: of the two samples, in the other order at odd ones. */
    const condition = (step = 0): Inputs => {
      const n = 2
      const states = model.family.text.map(({ network, norm }) => golden.tensor(`${norm ? 'text_skip_0' : 'text_plain'}/${network}`))
      const ordered = (data: Float32Array) => (step % 2 === 0 ? data : swapped(data))
      const inputs: Inputs = { context: tensor([n, LENGTH, model.contextDim], ordered(joinChannels(states, n * LENGTH))) }
      if (model.pooledDim > 0) inputs.pooled = tensor([n, model.pooledDim], ordered(golden.tensor('text_pooled')))
      if (model.timeIds) inputs.time_ids = tensor([n, 6], golden.tensor('time_ids'))
      return inputs
    }

    /** v = a·ε − b·x₀, where x_t = a·x₀ + b·ε. */
    const inputsOf = (step: number, learned = model.scheduler.predictionType): Inputs => {
      const inputs = { ...drawnInputs(golden, step), ...condition(step) }
      if (learned !== 'v_prediction') return inputs
      const { data, shape } = inputs.coefficients!
      const target = Float32Array.from(data, (_, i) => (i % 2 === 0 ? -data[i + 1]! : data[i - 1]!))
      return { ...inputs, target_coefficients: tensor(shape, target) }
    }

    it('encodes text, with the last layer and without it', async (t) => {
      for (const { network } of model.family.text) {
        const ids = Int32Array.from(golden.tensor(`ids/${network}`))
        for (const skip of [0, 1]) {
          const { data } = await session.run(network, 'encode', { ids: { shape: [2, LENGTH], data: ids } }, { skip })
          check(t, `text_skip_${skip}`, [[`text_skip_${skip}/${network}`, data]])
        }
      }
    })

    it('encodes images to moments and decodes latents', async (t) => {
      const [n, height, width] = golden.case.pixels
      const pixels = tensor([n, height, width, 3], pattern('pixels', n * height * width * 3, 0.5))
      check(t, 'vae_moments', [['vae_moments', (await session.run('vae', 'encode', { pixels })).data]])
      const latents = tensor([n, height / 8, width / 8, 4], pattern('vae latents', (n * height * width) / 16))
      check(t, 'vae_decoded', [['vae_decoded', (await session.run('vae', 'decode', { latents })).data]])
    })

    const predictions = async (group: string): Promise<[string, Float32Array][]> => {
      const [n, h, w] = golden.case.latents
      const found: [string, Float32Array][] = []
      for (const timesteps of [Float32Array.of(0, 999), Float32Array.of(17, 500)]) {
        const latents = tensor([n, h, w, 4], pattern(`latents ${timesteps[0]}`, n * h * w * 4))
        const inputs = { latents, timesteps: tensor([n], timesteps), ...condition() }
        found.push([`${group}/${timesteps}`, (await session.run('unet', 'predict', inputs)).data])
      }
      return found
    }

    it('predicts at four timesteps, without adapters and with them', async (t) => {
      session.attach([])
      check(t, 'unet', await predictions('unet'))
      attach(session, golden, 'default')
      check(t, 'unet_lora', await predictions('unet_lora'))
    })

    it('gives the losses of ten steps for ε and for v', async (t) => {
      attach(session, golden, 'default')
      for (const [group, learned] of [
        ['losses_epsilon', 'epsilon'],
        ['losses_v', 'v_prediction'],
      ] as const) {
        const losses: number[] = []
        for (let step = 0; step < golden.case.steps; step++) losses.push(...(await train(session, inputsOf(step, learned))))
        check(t, group, [[group, Float32Array.from(losses)]])
      }
    })

    for (const targets of ['attention', 'default'] as Targets[])
      it(`gives the loss and the gradient of every adapter, targets ${targets}`, async (t) => {
        const parameters = attach(session, golden, targets)
        check(t, `losses_${targets}`, [[`losses_${targets}`, await train(session, inputsOf(0))]])
        const gradients = named(parameters, session.read('gradients'))
        const values = gradients.map(([path, value]): [string, Float32Array] => [`gradients_${targets}/${path}`, value])
        check(t, `gradients_${targets}`, values)
      })

    it('trains ten steps to the same losses and norms', async (t) => {
      const { case: settings } = golden
      attach(session, golden, 'default')
      const losses: number[] = []
      const norms: number[] = []
      for (let step = 0; step < settings.steps; step++) {
        const groups = [{ learningRate: settings.learning_rate, weightDecay: settings.weight_decay }]
        const update = { groups, maxGradNorm: settings.max_grad_norm, lossScale: 1, step: step + 1 }
        losses.push(...(await train(session, inputsOf(step), 1, update)))
        norms.push(await session.norm())
      }
      check(t, 'training_losses', [['training_losses', Float32Array.from(losses)]])
      check(t, 'training_norms', [['training_norms', Float32Array.from(norms)]])
    })
  })

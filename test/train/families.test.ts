import assert from 'node:assert/strict'
import { after, before, describe, it, type TestContext } from 'node:test'
import { type Model, openSession, type ReadOptions } from '../../lib/models/model.js'
import { readModel } from '../../lib/models/read.js'
import type { Inputs, Parameter, Session, Tensor } from '../../lib/native.js'
import { encodeCaption } from '../fixtures/clip.js'
import { long } from '../long.js'
import {
  attach,
  compare,
  drawnInputs,
  type Golden,
  lossScale,
  named,
  place,
  readGolden,
  swapped,
  type Targets,
  tensor,
  train,
} from './golden.js'
import { goldenModel, singleFile } from './hollow.js'
import { pattern } from './pattern.js'

interface Source {
  title: string
  name: string
  /** Of `single-files`, instead of the folder: what differs is how it is read, so only the networks are run. */
  file?: string
  /** Only in `npm run test:long`: another family is read from the same kind of file. */
  onlyLong?: boolean
}

const sources: Source[] = [
  { title: 'a whole SD1 model', name: 'golden-sd1-model' },
  { title: 'a whole SD1 model in a safetensors file', name: 'golden-sd1-model', file: 'sd1.safetensors' },
  { title: 'a whole SD1 model in a checkpoint', name: 'golden-sd1-model', file: 'sd1.ckpt', onlyLong: true },
  { title: 'a whole SD1 model in an old checkpoint', name: 'golden-sd1-model', file: 'sd1-legacy.ckpt' },
  { title: 'a whole SD2 model', name: 'golden-sd2' },
  { title: 'a whole SD2 model in a safetensors file', name: 'golden-sd2', file: 'sd2.safetensors' },
  { title: 'a whole SD2 model in a checkpoint', name: 'golden-sd2', file: 'sd2.ckpt', onlyLong: true },
  { title: 'a whole SDXL model', name: 'golden-sdxl-model' },
  { title: 'a whole SDXL model in a safetensors file', name: 'golden-sdxl-model', file: 'sdxl.safetensors' },
  { title: 'a whole SDXL model in a checkpoint', name: 'golden-sdxl-model', file: 'sdxl.ckpt' },
]
/** As in `scripts/goldens/reference_family.py`. */
const SHORT = 'a 3d emoji of a red apple on a white background'
const ADJECTIVES = 'red,very large,watercolor,isometric,neon,low-poly,hand drawn,wooden,golden,translucent,tiny,old'.split(',')
const LONG = ['apple', 'octopus', 'rocket', 'castle', 'fox'].flatMap((noun) => ADJECTIVES.map((word) => `${word} ${noun}`)).join(', ')
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

for (const { title, name, file } of sources.filter(({ file, onlyLong }) => !file || (place.device === 'cpu' && (long || !onlyLong))))
  describe(`${title}, ${place.title}, against diffusers and peft`, () => {
    let golden: Golden
    let model: Model
    let session: Session

    before(async () => {
      golden = await readGolden(name, await goldenModel(name))
      // A file of SD2 cannot say what it predicts.
      const told: ReadOptions = name === 'golden-sd2' ? { predictionType: 'v_prediction' } : {}
      model = await readModel(file ? await singleFile(file) : golden.model, told)
      const text = model.family.text.map(({ network, skip, norm, pooled }) => ({ network, skip: skip(1), norm, pooled }))
      session = openSession(model, { device: place.device, threads: 2, precision: place.computes, text })
    })
    after(() => session?.dispose())

    const check = (t: TestContext, group: string, values: Iterable<[string, Float32Array]>) => {
      const error = compare(golden, place, group, values)
      t.diagnostic(`relative error ${error.toExponential(1)}, PyTorch ${golden.naive[place.computes][group]?.toExponential(1)}`)
    }

    const run = (...call: Parameters<Session['run']>) => session.run(...call) as Promise<[Tensor<Float32Array>, ...Tensor<Float32Array>[]]>

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
          const [states] = await session.run(network, 'encode', { ids: { shape: [2, LENGTH], data: ids } }, { skip })
          check(t, `text_skip_${skip}`, [[`text_skip_${skip}/${network}`, states!.data]])
        }
      }
    })

    it('encodes text without the final norm, and pools it at the first EOS', async (t) => {
      for (const { network, norm, pooled } of model.family.text) {
        if (norm) continue
        const ids = { shape: [2, LENGTH], data: Int32Array.from(golden.tensor(`ids/${network}`)) }
        const last = { shape: [2], data: Int32Array.from(golden.tensor(`ends/${network}`)) }
        const [states, pool] = await run(network, 'encode', { ids, ...(pooled && { last }) }, { skip: 1, norm: 0, pooled: Number(pooled) })
        check(t, 'text_plain', [[`text_plain/${network}`, states.data]])
        if (pooled) check(t, 'text_pooled', [['text_pooled', pool!.data]])
      }
    })

    it('makes contexts of a short caption, and of a long one in three chunks', async (t) => {
      for (const [group, text, maxTokenLength] of [
        ['caption', SHORT, 75],
        ['caption_225', LONG, 225],
      ] as const) {
        const { context, pooled } = await encodeCaption(session, model, text, { clipSkip: 1, maxTokenLength })
        check(t, group, [[`${group}/context`, context]])
        assert.equal(pooled !== undefined, model.pooledDim > 0)
        if (pooled) check(t, group, [[`${group}/pooled`, pooled]])
      }
    })

    it('encodes images to moments and decodes latents', async (t) => {
      const [n, height, width] = golden.case.pixels
      const pixels = tensor([n, height, width, 3], pattern('pixels', n * height * width * 3, 0.5))
      check(t, 'vae_moments', [['vae_moments', (await session.run('vae', 'encode', { pixels }))[0]!.data]])
      const latents = tensor([n, height / 8, width / 8, 4], pattern('vae latents', (n * height * width) / 16))
      check(t, 'vae_decoded', [['vae_decoded', (await session.run('vae', 'decode', { latents }))[0]!.data]])
    })

    const predictions = async (group: string): Promise<[string, Float32Array][]> => {
      const [n, h, w] = golden.case.latents
      const found: [string, Float32Array][] = []
      for (const timesteps of [Float32Array.of(0, 999), Float32Array.of(17, 500)]) {
        const latents = tensor([n, h, w, 4], pattern(`latents ${timesteps[0]}`, n * h * w * 4))
        const inputs = { latents, timesteps: tensor([n], timesteps), ...condition() }
        found.push([`${group}/${timesteps}`, (await session.run('unet', 'predict', inputs))[0]!.data])
      }
      return found
    }

    it('predicts at four timesteps, without adapters and with them', async (t) => {
      session.attach([])
      check(t, 'unet', await predictions('unet'))
      attach(session, golden, 'default')
      check(t, 'unet_lora', await predictions('unet_lora'))
      attach(session, golden, 'default', { convolutions: true })
      check(t, 'unet_conv', await predictions('unet_conv'))
    })

    if (file) return

    it('gives the losses of ten steps for ε and for v', async (t) => {
      attach(session, golden, 'default')
      for (const [group, learned] of [
        ['losses_epsilon', 'epsilon'],
        ['losses_v', 'v_prediction'],
      ] as const) {
        const losses: number[] = []
        for (let step = 0; step < golden.case.steps; step++) losses.push(...(await train(session, inputsOf(step, learned), lossScale)))
        check(t, group, [[group, Float32Array.from(losses)]])
      }
    })

    const gradients = async (t: TestContext, group: string, parameters: Parameter[], inputs: Inputs) => {
      check(t, `losses_${group}`, [[`losses_${group}`, await train(session, inputs, lossScale)]])
      return new Map(
        named(
          parameters,
          session.read('gradients').map((g) => g / lossScale),
        ),
      )
    }
    const checkGradients = (t: TestContext, group: string, values: Iterable<[string, Float32Array]>) =>
      check(
        t,
        `gradients_${group}`,
        [...values].map(([path, value]) => [`gradients_${group}/${path}`, value]),
      )

    for (const targets of ['attention', 'default'] as Targets[])
      it(`gives the loss and the gradient of every adapter, targets ${targets}`, async (t) => {
        checkGradients(t, targets, await gradients(t, targets, attach(session, golden, targets), inputsOf(0)))
      })

    it('gives the gradient of every adapter on a convolution', async (t) => {
      const found = [...(await gradients(t, 'conv', attach(session, golden, 'default', { convolutions: true }), inputsOf(0)))]
      const convolutions = found.filter(([path]) => !path.includes('.attentions.'))
      assert(convolutions.length > 40 && convolutions.length < found.length)
      checkGradients(t, 'conv', convolutions)
    })

    /** The inputs of a step that encodes its text. */
    const withText = (step: number): Inputs => {
      const { context, pooled, ...inputs } = inputsOf(step)
      const n = 2
      const ordered = (data: Int32Array) => (step % 2 === 0 ? data : swapped(data))
      for (const { network, pooled: pools } of model.family.text) {
        const ids = ordered(Int32Array.from(golden.tensor(`ids/${network}`)))
        inputs[`${network}.ids`] = { shape: [n, LENGTH], data: ids }
        inputs[`${network}.rows`] = { shape: [n, LENGTH], data: Int32Array.from(ids, (_, row) => row) }
        const ends = Int32Array.from(golden.tensor(`ends/${network}`), (row) => row % LENGTH)
        if (pools) inputs[`${network}.last`] = { shape: [n], data: ordered(ends).map((end, i) => end + i * LENGTH) }
      }
      return inputs
    }
    const texts = () => model.family.text.map(({ network }) => network)

    it('gives the gradient of every adapter on a text encoder', async (t) => {
      const found = [...(await gradients(t, 'text', attach(session, golden, 'attention', { texts: texts() }), withText(0)))]
      const ofTexts = found.filter(([path]) => path.startsWith('text_encoder'))
      // Nothing reads the last layer of a text encoder that drops it.
      const [read, unread] = [
        ofTexts.filter(([path]) => golden.has(`gradients_text/${path}`)),
        ofTexts.filter(([path]) => !golden.has(`gradients_text/${path}`)),
      ]
      assert.equal(unread.length, model.family.text.filter(({ norm, pooled }) => !norm && !pooled).length * 12)
      for (const [path, value] of unread)
        assert(
          value.every((each) => each === 0),
          path,
        )
      checkGradients(t, 'text', read)
    })

    it('trains ten steps of all adapters, with a rate for each network', async (t) => {
      const { case: settings } = golden
      const parameters = attach(session, golden, 'default', { convolutions: true, texts: texts() })
      const losses: number[] = []
      const norms: number[] = []
      const rates = [settings.learning_rate, ...settings.text_rates!.slice(0, texts().length)]
      for (let step = 0; step < settings.steps; step++) {
        const groups = rates.map((learningRate) => ({ learningRate, weightDecay: settings.weight_decay }))
        const update = { groups, maxGradNorm: settings.max_grad_norm, lossScale, step: step + 1 }
        losses.push(...(await train(session, withText(step), lossScale, update)))
        norms.push(await session.norm())
      }
      check(t, 'training_losses_all', [['training_losses_all', Float32Array.from(losses)]])
      check(t, 'training_norms_all', [['training_norms_all', Float32Array.from(norms)]])
      const trained = named(parameters, session.read('weights')).filter(
        ([path]) => golden.has(`gradients_text/${path}`) || !path.startsWith('text_encoder'),
      )
      check(
        t,
        'trained_all',
        trained.map(([path, value]) => [`trained_all/${path}`, value]),
      )
    })

    it('trains ten steps to the same losses and norms', async (t) => {
      const { case: settings } = golden
      attach(session, golden, 'default')
      const losses: number[] = []
      const norms: number[] = []
      for (let step = 0; step < settings.steps; step++) {
        const groups = [{ learningRate: settings.learning_rate, weightDecay: settings.weight_decay }]
        const update = { groups, maxGradNorm: settings.max_grad_norm, lossScale, step: step + 1 }
        losses.push(...(await train(session, inputsOf(step), lossScale, update)))
        norms.push(await session.norm())
      }
      check(t, 'training_losses', [['training_losses', Float32Array.from(losses)]])
      check(t, 'training_norms', [['training_norms', Float32Array.from(norms)]])
    })
  })

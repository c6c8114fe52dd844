import assert from 'node:assert/strict'
import { after, before, describe, it, type TestContext } from 'node:test'
import type { Inputs, Session } from '../../lib/native.js'
import {
  attach,
  compare,
  contextOf,
  type Golden,
  lossScale,
  named,
  openSession,
  places,
  readGolden,
  relativeError,
  stepInputs,
  type Targets,
  tensor,
  train,
} from './golden.js'
import { pattern } from './pattern.js'

const models = places.flatMap((place) => [
  { place, title: 'a random SD1 model', name: 'golden-sd1', folder: 'test/fixtures/golden-sd1/model' },
  { place, title: 'the bundled model', name: 'golden-tiny-sd', folder: 'examples/tiny-sd' },
])

for (const { place, title, name, folder } of models) {
  describe(`${title}, ${place.title}, against diffusers and peft`, () => {
    let golden: Golden
    let session: Session

    before(async () => {
      golden = await readGolden(name, folder)
      session = await openSession(golden, place)
    })
    after(() => session?.dispose())

    const check = (t: TestContext, group: string, values: Iterable<[string, Float32Array]>) => {
      const error = compare(golden, place, group, values)
      t.diagnostic(`relative error ${error.toExponential(1)}, PyTorch ${golden.naive[place.computes][group]?.toExponential(1)}`)
    }

    it('encodes text, with the last layer and without it', async (t) => {
      const ids = Int32Array.from(golden.tensor('text_ids'))
      for (const skip of [0, 1]) {
        const [states] = await session.run('text_encoder', 'encode', { ids: { shape: [2, ids.length / 2], data: ids } }, { skip })
        check(t, `text_skip_${skip}`, [[`text_skip_${skip}`, states!.data]])
      }
    })

    it('encodes images to moments', async (t) => {
      const [n, height, width] = golden.case.pixels
      const pixels = tensor([n, height, width, 3], pattern('pixels', n * height * width * 3, 0.5))
      const [moments] = await session.run('vae', 'encode', { pixels })
      assert.deepEqual(moments!.shape, [n, height / 8, width / 8, 8])
      check(t, 'vae_moments', [['vae_moments', moments!.data]])
    })

    it('decodes latents', async (t) => {
      const [n, height, width] = golden.case.pixels
      const latents = tensor([n, height / 8, width / 8, 4], pattern('vae latents', (n * height * width) / 16))
      check(t, 'vae_decoded', [['vae_decoded', (await session.run('vae', 'decode', { latents }))[0]!.data]])
    })

    const predictions = async (group: string, from = session): Promise<[string, Float32Array][]> => {
      const [n, h, w] = golden.case.latents
      const found: [string, Float32Array][] = []
      for (const timesteps of [Float32Array.of(0, 999), Float32Array.of(17, 500)]) {
        const latents = tensor([n, h, w, 4], pattern(`latents ${timesteps[0]}`, n * h * w * 4))
        const inputs = { latents, timesteps: tensor([n], timesteps), context: contextOf(golden) }
        found.push([`${group}/${timesteps}`, (await from.run('unet', 'predict', inputs))[0]!.data])
      }
      return found
    }

    it('predicts noise without adapters', async (t) => {
      session.attach([])
      check(t, 'unet', await predictions('unet'))
    })

    it('predicts noise with adapters', async (t) => {
      attach(session, golden, 'default')
      check(t, 'unet_lora', await predictions('unet_lora'))
    })

    // In what the CPU multiplies bf16 in.
    if (place.device === 'cpu' && place === places.at(-1))
      it('predicts noise with frozen weights rounded to bf16', async (t) => {
        const rounded = await openSession(golden, place, { precision: 'bf16' })
        try {
          attach(rounded, golden, 'default')
          check(t, 'unet_bf16', await predictions('unet_bf16', rounded))
        } finally {
          rounded.dispose()
        }
      })

    for (const targets of ['attention', 'default'] as Targets[]) {
      it(`gives the loss and the gradient of every adapter, targets ${targets}`, async (t) => {
        const parameters = attach(session, golden, targets)
        check(t, `losses_${targets}`, [[`losses_${targets}`, await train(session, stepInputs(golden, 0), lossScale)]])
        const gradients = session.read('gradients').map((g) => g / lossScale)
        check(
          t,
          `gradients_${targets}`,
          named(parameters, gradients).map(([name, value]) => [`gradients_${targets}/${name}`, value]),
        )
      })
    }

    it('adds gradients up over two halves of a batch', async () => {
      const parameters = attach(session, golden, 'default')
      const whole = stepInputs(golden, 0)
      for (const i of [0, 1]) {
        const half: Inputs = {}
        for (const [name, { shape, data }] of Object.entries(whole))
          half[name] = { shape: [1, ...shape.slice(1)], data: data.subarray((i * data.length) / 2, ((i + 1) * data.length) / 2) }
        await train(session, half, lossScale / 2)
      }
      const gradients = session.read('gradients').map((g) => g / lossScale)
      compare(
        golden,
        place,
        'gradients_default',
        named(parameters, gradients).map(([name, value]) => [`gradients_default/${name}`, value]),
      )
    })

    it('trains ten steps to the same losses and adapters', async (t) => {
      const { case: settings } = golden
      const parameters = attach(session, golden, 'default')
      const losses: number[] = []
      const norms: number[] = []
      for (let step = 0; step < settings.steps; step++) {
        const update = {
          groups: [{ learningRate: settings.learning_rate, weightDecay: settings.weight_decay }],
          maxGradNorm: settings.max_grad_norm,
          lossScale,
          step: step + 1,
        }
        losses.push(...(await train(session, stepInputs(golden, step), lossScale, update)))
        norms.push(await session.norm())
      }
      const clipped = norms.filter((norm) => norm > settings.max_grad_norm).length
      assert(clipped > 0 && clipped < settings.steps, `some steps are clipped and some are not: ${norms}`)
      check(t, 'training_losses', [['training_losses', Float32Array.from(losses)]])
      check(t, 'training_norms', [['training_norms', Float32Array.from(norms)]])
      const trained = named(parameters, session.read('weights'))
      check(
        t,
        'trained',
        trained.map(([name, value]) => [`trained/${name}`, value]),
      )
      const moved = trained.map(([name, value]) => {
        const start = pattern(name, value.length, settings.deviation)
        const minus = (values: Float32Array) => values.map((value, i) => value - (start[i] ?? 0))
        return relativeError(minus(value), minus(golden.tensor(`trained/${name}`)))
      })
      t.diagnostic(`what the ten steps changed: relative error ${Math.max(...moved).toExponential(1)}`)
      if (place.computes === 'f32') assert(Math.max(...moved) <= 1e-3, 'the change of the adapters is that of the reference')
    })

    it('gives the same bits in another session, with one thread', async () => {
      const single = await openSession(golden, place, { threads: 1 })
      try {
        const results = []
        for (const each of [session, single]) {
          attach(each, golden, 'default')
          const losses = await train(each, stepInputs(golden, 1))
          results.push({ losses, gradients: each.read('gradients') })
        }
        assert.deepEqual(results[1], results[0])
      } finally {
        single.dispose()
      }
    })
  })
}

import assert from 'node:assert/strict'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import type { Model } from '../../../lib/models/model.js'
import { readModel } from '../../../lib/models/read.js'
import { sd1 } from '../../../lib/models/sd1.js'
import { sdxl } from '../../../lib/models/sdxl.js'
import { asIs, resolveTrainOptions, type TrainOptions } from '../../../lib/options/resolve.js'
import { hashModel, hashTokens, settingsOf } from '../../../lib/train/identity.js'
import { trainedParts } from '../../../lib/train/parts.js'
import { type FamilyName, leftovers, singleFileTensors, smallModel, writeLayouts } from '../../fixtures/checkpoints.js'
import { changeConfig, copyModel, vaeFile } from '../../fixtures/models.js'
import { readSchedules, schedulerOf } from '../../fixtures/schedules.js'
import { temporaryFolder } from '../../fixtures/temporary.js'
import { long, onlyLong } from '../../long.js'

const hashesOf = async (path: string) => hashModel(await readModel(path))

for (const family of ['sd1', 'sd2', 'sdxl'] satisfies FamilyName[]) {
  test(
    `the parts of a small ${family} model have the same hashes in a folder, a safetensors file and a pickle`,
    family === 'sd2' ? onlyLong : {},
    async (t) => {
      const folder = await temporaryFolder(t)
      const model = smallModel(family)
      const single = singleFileTensors(family, model)
      // Old files have positions, in some of them as floats.
      const prefix = family === 'sdxl' ? 'conditioner.embedders.0' : 'cond_stage_model'
      const positions = { name: `${prefix}.transformer.text_model.embeddings.position_ids`, dtype: 'F16', data: new Uint16Array(77) }
      const others = leftovers().filter(({ name }) => !name.endsWith('position_ids'))
      await writeLayouts(folder, model, [...single, { ...positions, shape: [1, 77] }, ...others])
      const expected = await hashesOf(join(folder, 'folder'))
      const encoders = family === 'sdxl' ? ['text_encoder', 'text_encoder_2'] : ['text_encoder']
      assert.deepEqual(Object.keys(expected).sort(), ['scheduler', ...encoders, 'unet', 'vae'])
      assert.equal(new Set(Object.values(expected)).size, Object.keys(expected).length)
      // In the short run the pickle of one family.
      const names = long || family === 'sd1' ? ['a.safetensors', 'a.ckpt'] : ['a.safetensors']
      for (const name of names) assert.deepEqual(await hashesOf(join(folder, name)), expected, name)
    },
  )
}

test('a part whose weights, config or scale are others has another hash, and no other part has', async (t) => {
  const model = await copyModel(t)
  const before = await hashesOf(model)
  const changed = async () => {
    const now = await hashesOf(model)
    return Object.keys(before).filter((part) => now[part] !== before[part])
  }
  const changes: [part: string, file: string, change: (path: string) => Promise<void>][] = [
    [
      'vae',
      vaeFile,
      async (path) =>
        writeFile(
          path,
          (await readFile(path)).map((byte, i, { length }) => byte ^ Number(i === length - 1)),
        ),
    ],
    ['vae', 'vae/config.json', () => changeConfig(model, 'vae/config.json', { scaling_factor: 0.5 })],
    ['text_encoder', 'text_encoder/config.json', () => changeConfig(model, 'text_encoder/config.json', { hidden_act: 'gelu' })],
    ['scheduler', 'scheduler/scheduler_config.json', () => changeConfig(model, 'scheduler/scheduler_config.json', { beta_end: 0.5 })],
  ]
  for (const [part, file, change] of changes) {
    const path = join(model, file)
    const bytes = await readFile(path)
    await change(path)
    assert.deepEqual(await changed(), [part], file)
    await writeFile(path, bytes)
    assert.deepEqual(await changed(), [], file)
  }
})

test('values of a scheduler that only drawing reads are not compared', async (t) => {
  const model = await copyModel(t)
  const before = await hashesOf(model)
  await changeConfig(model, 'scheduler/scheduler_config.json', { steps_offset: 0, set_alpha_to_one: true, clip_sample: true })
  assert.deepEqual(await hashesOf(model), before)
})

test('a weight file that ends early is refused, and a signal stops the hashing', async (t) => {
  const path = await copyModel(t)
  const model = await readModel(path)
  const bytes = await readFile(join(path, vaeFile))
  await writeFile(join(path, vaeFile), bytes.subarray(0, -4))
  await assert.rejects(hashModel(model), { code: 'WEIGHTS_TRUNCATED', message: /^Expected 12 bytes of conv_in.weight in .* received 8; / })
  await assert.rejects(hashModel(model, AbortSignal.abort(new Error('enough'))), /enough/)
})

test('tokens are those of all encoders and images, in order', async () => {
  const of = (first: number, second: number) => ({ ids: { a: Int32Array.of(first), b: Int32Array.of(second) }, cut: false })
  const tokens = new Map([
    ['x', of(1, 2)],
    ['y', of(3, 4)],
  ])
  const [x, y] = [{ caption: 'x' }, { caption: 'y' }]
  const all = [await hashTokens([x, y], tokens), await hashTokens([y, x], tokens), await hashTokens([x], tokens)]
  tokens.set('y', of(3, 5))
  all.push(await hashTokens([x, y], tokens))
  assert.equal(new Set(all).size, 4)
})

const { config } = readSchedules().alphas[0]!

/** Settings of a run of 20 steps on a model that predicts ε, as a state holds them. */
function settings(given: Partial<TrainOptions>, family: Model['family'] = sd1): unknown {
  const options = resolveTrainOptions({ model: 'm', images: 'i', ...given })
  const scheduler = { ...schedulerOf(config), predictionType: options.predictionType ?? 'epsilon', rescaleBetasZeroSnr: false }
  const precision = options.precision === 'auto' ? 'f32' : options.precision
  const of = { model: { family, scheduler }, parts: trainedParts(options, family, asIs), precision, steps: 20 } as const
  return JSON.parse(JSON.stringify(settingsOf(options, of)))
}

const same: [string, Partial<TrainOptions>, Partial<TrainOptions>, Model['family']?][] = [
  ['no rate of text encoders, 0, and the UNet alone', {}, { textEncoderLr: 0 }],
  ['the UNet alone, said twice', {}, { textEncoderLr: [0, 0], networkTrainUnetOnly: true }, sdxl],
  ['switches that are off', {}, { networkTrainUnetOnly: false, networkTrainTextEncoderOnly: false }],
  ['one rate for both encoders, or one for each', { textEncoderLr: 1e-5 }, { textEncoderLr: [1e-5, 1e-5] }, sdxl],
  [
    'the encoders alone, at the learning rate or at theirs',
    { networkTrainTextEncoderOnly: true, learningRate: 1e-5 },
    { networkTrainTextEncoderOnly: true, textEncoderLr: 1e-5, targets: 'attention' },
  ],
  ['alpha 0 and the rank', { alpha: 0, convRank: 4 }, { alpha: 16, convRank: 4, convAlpha: 4 }],
  ["SDXL's clip skips", { clipSkip: 1 }, { clipSkip: 2 }, sdxl],
  ['what the model predicts, and the same said', {}, { predictionType: 'epsilon', zeroTerminalSnr: false }],
  ['automatic precision and what it comes to', {}, { precision: 'f32' }],
  ['sides of buckets that are rounded to the same', { bucketMin: 300, bucketMax: 1000 }, { bucketMin: 256, bucketMax: 1024 }],
  ['sides of buckets that there are not', { buckets: false }, { buckets: false, bucketMin: 64, bucketNoUpscale: true }],
  ['sides of buckets that are not asked for', { bucketNoUpscale: true }, { bucketNoUpscale: true, bucketMax: 512 }],
  ['steps and epochs that make as many', { lrScheduler: 'cosine', steps: 20 }, { lrScheduler: 'cosine', epochs: 2 }],
  ['the length of a run at constant rate', { steps: 20 }, { steps: 30 }],
  ['places, threads and saving', {}, { output: 'o', name: 'n', device: 'cpu', threads: 1, savePrecision: 'f32', saveEvery: 1, vae: 'v' }],
]

for (const [what, one, other, family] of same)
  test(`the same settings: ${what}`, () => assert.deepEqual(settings(one, family), settings(other, family)))

const different: [Partial<TrainOptions>, Partial<TrainOptions>, Model['family']?][] = [
  [{}, { rank: 4 }],
  [{}, { seed: 1 }],
  [{}, { textEncoderLr: 1e-5 }],
  [{ textEncoderLr: [1e-5, 0] }, { textEncoderLr: 1e-5 }, sdxl],
  [{ textEncoderLr: 1e-4 }, { networkTrainTextEncoderOnly: true }],
  [{ textEncoderLr: 1e-5 }, { textEncoderLr: 1e-5, stopTextEncoderTraining: 3 }],
  [{}, { clipSkip: 2 }],
  [{}, { predictionType: 'v_prediction' }],
  [{}, { precision: 'bf16' }],
  [{ bucketMin: 128 }, { bucketMin: 256 }],
  [{}, { lrScheduler: 'cosine' }],
]

for (const [one, other, family] of different)
  test(`other settings: ${JSON.stringify(one)} and ${JSON.stringify(other)}`, () =>
    assert.notDeepEqual(settings(one, family), settings(other, family)))

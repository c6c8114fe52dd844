import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import sharp from 'sharp'
import type { TrainEvent } from '../../../lib/events.js'
import { readHeader } from '../../../lib/files/safetensors.js'
import type { Inputs, Tensor } from '../../../lib/native.js'
import { resolveTrainOptions, type TrainOptions } from '../../../lib/options/resolve.js'
import { Training } from '../../../lib/train/run.js'
import { FakeSession } from '../../fixtures/fake-session.js'
import { copySdxl } from '../../fixtures/models.js'
import { temporaryFolder } from '../../fixtures/temporary.js'

/** A session whose text encoders have the widths of `copySdxl`'s, and pool to a text's number of tokens. */
class SdxlSession extends FakeSession {
  readonly settings: unknown[] = []

  override async run(network: string, name: string, inputs: Inputs, settings?: Record<string, number>): Promise<Tensor<Float32Array>[]> {
    this.settings.push({ network, ids: inputs.ids?.shape, ...settings })
    this.contextDim = network === 'text_encoder_2' ? 64 : 128
    const results = await super.run(network, name, inputs)
    const { last } = inputs
    return last ? [...results, { shape: [1, 48], data: new Float32Array(48).fill(last.data[0]!) }] : results
  }
}

/** Trains a small SDXL on a wide image that is cropped to a square. */
async function run(t: TestContext, given: Partial<TrainOptions>) {
  const images = await temporaryFolder(t)
  await sharp({ create: { width: 160, height: 96, channels: 3, background: 'red' } }).toFile(join(images, '0.png'))
  await writeFile(join(images, '0.txt'), 'a red cat')
  const output = join(await temporaryFolder(t), 'out')
  const shared = { images, output, device: 'cpu' as const, resolution: 64, buckets: false, bucketStep: 32, rank: 1, saveEvery: 0 }
  const options = resolveTrainOptions({ model: await copySdxl(t), ...shared, steps: 8, ...given })
  const path = 'down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q'
  const session = new SdxlSession([{ path, kind: 'linear', inFeatures: 3, outFeatures: 2, kernel: 1, stride: 1 }])
  const events: TrainEvent[] = []
  const training = new Training(options, { onEvent: (event) => events.push(event) }, undefined, () => session)
  return { training, session, events }
}

test("SDXL trains with both encoders' text, its pooled text, and the sizes of image, crop and square", async (t) => {
  const { training, session, events } = await run(t, { flip: true, maxTokenLength: 150, clipSkip: 2 })
  const { path } = await training.train()
  assert.ok(events.some((event) => event.type === 'start' && event.model.startsWith('SDXL, ε-prediction, ')))
  for (const name of ['text_encoder', 'text_encoder_2', 'vae']) assert.ok(session.calls.includes(`plan ${name}.encode`), name)
  assert.deepEqual(session.settings.slice(0, 2), [
    { network: 'text_encoder', ids: [2, 77], skip: 1, norm: 0, pooled: 0 },
    { network: 'text_encoder_2', ids: [2, 77], skip: 1, norm: 0, pooled: 1 },
  ])
  const { context, pooled } = session.steps[0]!
  assert.deepEqual([context!.length, pooled!.length], [152 * 192, 48])
  // The first EOS comes after BOS and the tokens of the caption.
  assert.ok(pooled!.every((value) => value === pooled![0]) && pooled![0]! >= 4)
  // The image becomes 107 × 64 pixels, of which the 64 from the 22nd are trained on; from the other side they are the 23rd.
  const seen = new Set(session.steps.map(({ time_ids }) => [...time_ids!].join()))
  assert.deepEqual([...seen].sort(), ['96,160,0,21,64,64', '96,160,0,22,64,64'])
  const { tensors, metadata } = await readHeader(path)
  assert.deepEqual(
    [...new Set(tensors.map(({ name }) => name.slice(0, name.indexOf('.'))))],
    ['lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q'],
  )
  assert.deepEqual([metadata.ss_base_model_version, metadata.ss_max_token_length], ['sdxl_base_v1-0', '150'])
})

test('SDXL has no clip skip above 2', async (t) => {
  const { training } = await run(t, { clipSkip: 3 })
  await assert.rejects(training.train(), {
    code: 'OPTION_INVALID',
    message: 'Expected at most 2 for clipSkip with this model but received 3',
  })
})

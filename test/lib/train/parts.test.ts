import assert from 'node:assert/strict'
import { test } from 'node:test'
import { sd1 } from '../../../lib/models/sd1.js'
import { sdxl } from '../../../lib/models/sdxl.js'
import { asIs, resolveTrainOptions, type TrainOptions } from '../../../lib/options/resolve.js'
import { lastTextStep, textEncoders, trainedParts } from '../../../lib/train/parts.js'

const resolved = (given: Partial<TrainOptions>) => resolveTrainOptions({ model: 'm', images: 'i', learningRate: 1e-3, ...given })
const parts = (given: Partial<TrainOptions>, family = sd1) =>
  trainedParts(resolved(given), family, asIs).map(({ network, group, learningRate }) => [network, group, learningRate])

test('the UNet alone is trained unless a text encoder has a rate', () => {
  const unet = ['unet', 0, 1e-3]
  assert.deepEqual(parts({}), [unet])
  assert.deepEqual(parts({ networkTrainUnetOnly: true }), [unet])
  assert.deepEqual(parts({ textEncoderLr: 0 }), [unet])
  assert.deepEqual(parts({ textEncoderLr: 5e-5 }), [unet, ['text_encoder', 1, 5e-5]])
  assert.deepEqual(parts({ textEncoderLr: 5e-5 }, sdxl), [unet, ['text_encoder', 1, 5e-5], ['text_encoder_2', 2, 5e-5]])
  assert.deepEqual(parts({ textEncoderLr: [5e-5, 1e-5] }, sdxl), [unet, ['text_encoder', 1, 5e-5], ['text_encoder_2', 2, 1e-5]])
  assert.deepEqual(parts({ textEncoderLr: [0, 1e-5] }, sdxl), [unet, ['text_encoder_2', 2, 1e-5]])
  assert.deepEqual(parts({ networkTrainTextEncoderOnly: true }), [['text_encoder', 1, 1e-3]])
  assert.deepEqual(parts({ networkTrainTextEncoderOnly: true, textEncoderLr: 1e-5 }), [['text_encoder', 1, 1e-5]])
})

test('rates that the model has no encoder for, and none at all, are refused', () => {
  const message = 'Expected one rate for textEncoderLr, as this model has one text encoder, but received 0.1 0.2'
  assert.throws(() => parts({ textEncoderLr: [0.1, 0.2] }), { code: 'OPTION_INVALID', message })
  const none = {
    code: 'OPTION_INVALID',
    message: 'Expected a rate above 0 for textEncoderLr with networkTrainTextEncoderOnly but received 0',
  }
  assert.throws(() => parts({ networkTrainTextEncoderOnly: true, textEncoderLr: 0 }), none)
})

test('steps encode their text until the encoders stop', () => {
  const last = (given: Partial<TrainOptions>) => lastTextStep(trainedParts(resolved(given), sd1, asIs), resolved(given))
  assert.equal(last({}), 0)
  assert.equal(last({ textEncoderLr: 1e-5 }), Infinity)
  assert.equal(last({ textEncoderLr: 1e-5, stopTextEncoderTraining: 7 }), 7)
})

test('a step makes its text as the family does', () => {
  assert.deepEqual(textEncoders({ family: sd1 }, resolved({ clipSkip: 2 })), [
    { network: 'text_encoder', skip: 1, norm: true, pooled: false },
  ])
  assert.deepEqual(textEncoders({ family: sdxl }, resolved({})), [
    { network: 'text_encoder', skip: 1, norm: false, pooled: false },
    { network: 'text_encoder_2', skip: 1, norm: false, pooled: true },
  ])
})

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { infotext, loraTag, parsePrompt } from '../../../lib/draw/prompt.js'
import { samplerNames, samplers } from '../../../lib/options/samplers.js'
import { readInfotext, samplerOf } from '../../fixtures/a1111.js'

test('LoRAs are taken out of a prompt', () => {
  assert.deepEqual(parsePrompt('a cat <lora:style:0.8>, red<lora:b>'), {
    text: 'a cat , red',
    loras: [
      { name: 'style', te: 0.8, unet: 0.8 },
      { name: 'b', te: 1, unet: 1 },
    ],
    unused: [],
  })
})

test('tags of other kinds are no words either, and are told', () => {
  // A1111's pattern for tags of extra networks is <(\\w+):([^>]+)>.
  assert.deepEqual(parsePrompt('plain <3 <hypernet:x:1>, <Lora:b><日本:a<b> <x:> <a b:1> <y:1'), {
    text: 'plain <3 ,  <x:> <a b:1> <y:1',
    loras: [],
    unused: ['<hypernet:x:1>', '<Lora:b>', '<日本:a<b>'],
  })
  for (const part of ['<a:', '<', '>', '<a', '<a:>', '<a:b>', 'a'])
    assert.equal(
      parsePrompt(part.repeat(1e6 / part.length)).text.length,
      part === '<a:b>' ? 0 : Math.floor(1e6 / part.length) * part.length,
    )
})

test("as in A1111, weights are the text encoder's and the UNet's, in this order or by name", () => {
  const tags: Record<string, [te: number, unet: number]> = {
    '1:-0.5': [1, -0.5],
    '1:te=0.2': [0.2, 0.2],
    '0.3:unet=0.7': [0.3, 0.7],
    'unet=0.7': [1, 0.7],
    'te=2': [2, 2],
    'te=2:0.5': [2, 2],
    'te=2:0.1:0.5': [2, 0.5],
    ' 1e-1 ': [0.1, 0.1],
  }
  for (const [weights, [te, unet]] of Object.entries(tags)) {
    assert.deepEqual(parsePrompt(`<lora:a:${weights}>`).loras, [{ name: 'a', te, unet }], weights)
  }
  assert.deepEqual(parsePrompt('<lyco:a:0.5>').loras, [{ name: 'a', te: 0.5, unet: 0.5 }])
})

test('tags lead back to their weights', () => {
  for (const weights of [
    { te: 0.5, unet: 0.5 },
    { te: 0, unet: -1.25 },
  ]) {
    assert.deepEqual(parsePrompt(loraTag('a b', weights)).loras, [{ name: 'a b', ...weights }])
  }
})

test('a tag without name or number is refused', () => {
  for (const tag of [
    '<lora:>',
    '<lora:a:much>',
    '<lora:a:>',
    '<lora::1>',
    '<lora:a:1:x>',
    '<lora:a:lbw=MIDD>',
    '<lora:a:NaN>',
    '<lora:a:1:2:3:4>',
  ]) {
    const message = `Expected <lora:name:weight> in the prompt but received "${tag}"`
    assert.throws(() => parsePrompt(`x ${tag}`), { code: 'PROMPT_INVALID', message })
  }
})

test('a name that no file can have is refused', () => {
  assert.throws(() => parsePrompt('<lora:a\0:1>'), { code: 'PROMPT_INVALID', message: /received "<lora:a\\u0000:1>"/ })
})

test('a rank to cut a LoRA to is refused, not taken for a weight', () => {
  for (const tag of ['<lora:a:1:0.5:8>', '<lora:a:1:dyn=8>']) {
    assert.throws(() => parsePrompt(tag), { code: 'PROMPT_INVALID', message: /a rank to cut it to \(dyn\) is not supported/ })
  }
})

test('a tag without its end is refused, not drawn', () => {
  for (const prompt of ['a cat <lora:zz', '<lora:a <lora:b:1>', 'a <lora:', '<lyco:a\n']) {
    assert.throws(() => parsePrompt(prompt), { code: 'PROMPT_INVALID', message: /received "<.*", which has no end$/ }, prompt)
  }
  assert.throws(
    () => parsePrompt(`<lora:${'z'.repeat(1e5)}`),
    (error: Error) => error.message.length < 300,
  )
})

const info = {
  prompt: 'a cat ',
  negativePrompt: '',
  loras: [],
  sampler: 'DDIM' as const,
  steps: 30,
  cfg: 4,
  seed: 1,
  width: 128,
  height: 64,
  model: 'tiny-sd',
  modelHash: '0123456789abcdef',
  clipSkip: 1,
}

test('a picture carries what it was made from', () => {
  const parameters =
    'Steps: 30, Sampler: DDIM, Schedule type: Automatic, CFG scale: 4, Seed: 1, Size: 128x64, Model hash: 0123456789, Model: tiny-sd, Version: lorafuse 0.1.0'
  assert.equal(infotext(info), `a cat\n${parameters}`)
})

test('negative prompt, clip skip and LoRAs are told', () => {
  const hash = 'fedcba9876543210'
  const loras = [
    { name: 'style: one, two', hash },
    { name: 'b', hash },
  ]
  const text = infotext({ ...info, negativePrompt: 'dog, blur', clipSkip: 2, loras, model: 'a, b' })
  const [prompt, negative, fields] = text.split('\n')
  assert.equal(prompt, 'a cat')
  assert.equal(negative, 'Negative prompt: dog, blur')
  assert.match(fields as string, /Model: "a, b", Clip skip: 2, Lora hashes: "style one two: fedcba987654, b: fedcba987654", Version/)
})

test("A1111's PNG Info reads all of it back", () => {
  const loras = [{ name: 'style', hash: 'fedcba9876543210' }]
  const prompt = 'a (red: 1.2), "cat": <lora:style:0.8>\nBREAK\nSteps: many, a b: c'
  const negativePrompt = 'dog, [blur]\nSeed: none'
  const fields = readInfotext(infotext({ ...info, prompt, negativePrompt, clipSkip: 2, loras, model: 'a: "b", c' }))
  assert.deepEqual(fields, {
    Prompt: prompt,
    'Negative prompt': negativePrompt,
    Steps: '30',
    Sampler: 'DDIM',
    'Schedule type': 'Automatic',
    'CFG scale': '4',
    Seed: '1',
    'Size-1': '128',
    'Size-2': '64',
    'Model hash': '0123456789',
    Model: 'a: "b", c',
    'Clip skip': '2',
    'Lora hashes': 'style: fedcba987654',
    Version: 'lorafuse 0.1.0',
  })
  assert.equal(readInfotext(infotext(info))['Clip skip'], '1')
})

test('A1111 would draw with the same sampler and schedule', () => {
  for (const sampler of samplerNames) {
    const { title, schedule } = samplers[sampler]
    const expected = { sampler: title, schedule: schedule === 'Automatic' ? 'Uniform' : schedule }
    assert.deepEqual(samplerOf(readInfotext(infotext({ ...info, sampler }))), expected)
  }
})

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { infotext, parsePrompt } from '../../../lib/draw/prompt.js'

test('LoRAs are taken out of a prompt', () => {
  assert.deepEqual(parsePrompt('a cat <lora:style:0.8>, red<lora:b>'), {
    text: 'a cat , red',
    loras: [
      { name: 'style', weight: 0.8 },
      { name: 'b', weight: 1 },
    ],
  })
  assert.deepEqual(parsePrompt('plain <3 <hyper:x:1>').loras, [])
})

test("as in A1111, weights are the text encoder's and the UNet's, in this order or by name", () => {
  const tags = {
    '1:-0.5': -0.5,
    '1:te=0.2': 0.2,
    '0.3:unet=0.7': 0.7,
    'unet=0.7': 0.7,
    'te=2': 2,
    'te=2:0.5': 2,
    'te=2:0.1:0.5': 0.5,
    ' 1e-1 ': 0.1,
  }
  for (const [weights, weight] of Object.entries(tags)) {
    assert.deepEqual(parsePrompt(`<lora:a:${weights}>`), { text: '', loras: [{ name: 'a', weight }] }, weights)
  }
  assert.deepEqual(parsePrompt('<lyco:a:0.5>').loras, [{ name: 'a', weight: 0.5 }])
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

test('negative prompt, clip skip and LoRAs are told; LoRAs as tags, so that others apply them too', () => {
  const hash = 'fedcba9876543210'
  const loras = [
    { name: 'style', weight: 0.8, hash },
    { name: 'b', weight: 1, hash },
  ]
  const text = infotext({ ...info, negativePrompt: 'dog, blur', clipSkip: 2, loras, model: 'a, b' })
  const [prompt, negative, fields] = text.split('\n')
  assert.equal(prompt, 'a cat <lora:style:0.8> <lora:b:1>')
  assert.equal(negative, 'Negative prompt: dog, blur')
  assert.match(fields as string, /Model: "a, b", Clip skip: 2, Lora hashes: "style: fedcba987654, b: fedcba987654", Version/)
})

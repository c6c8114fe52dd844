import assert from 'node:assert/strict'
import { test } from 'node:test'
import { encodePrompt, weigh } from '../../../lib/draw/context.js'
import { openSession } from '../../../lib/models/model.js'
import { readModel } from '../../../lib/models/read.js'
import { encodeCaption } from '../../fixtures/clip.js'
import { tiny } from '../../fixtures/lora.js'

const model = await readModel(tiny)
const session = openSession(model, { device: 'cpu', threads: 1, precision: 'f32' })
const encode = async (prompt: string) => (await encodePrompt(session, model, prompt, 1)).context
const plain = async (text: string) => (await encodeCaption(session, model, text, { clipSkip: 1, maxTokenLength: 75 })).context

test('a prompt of one chunk without brackets is what training makes of it', async () => {
  for (const text of ['', 'an apple', 'a house, a cat']) assert.deepEqual(await encode(text), await plain(text))
})

test('chunks are encoded apart and lie one after the other', async () => {
  const [a, b] = [await plain('an apple'), await plain('a house')]
  const both = await encode('an apple BREAK a house')
  assert.equal(both.length, a.length + b.length)
  assert.deepEqual([both.subarray(0, a.length), both.subarray(a.length)], [a, b])
  const [numbers, rest] = ['cat '.repeat(75), 'cat '.repeat(10)]
  const long = await encode(numbers + rest)
  assert.deepEqual([long.subarray(0, a.length), long.subarray(a.length)], [await plain(numbers), await plain(rest)])
})

test('weights are those of the words', async () => {
  const weights = new Float32Array(77).fill(1)
  // BOS, an, apple.
  weights[2] = 1.4
  const expected = await plain('an apple')
  weigh(expected, weights)
  assert.deepEqual(await encode('an (apple:1.4)'), expected)
  assert.deepEqual(await encode('\\(apple\\)'), await plain('(apple)'))
})

test('what is too long is cut, and told', async () => {
  // The encoder is not asked.
  const silent = { run: async () => [{ shape: [1, 1], data: new Float32Array(77 * 32) }] }
  for (const [count, codes] of [
    [75 * 32, []],
    [75 * 32 + 1, ['PROMPT_TOO_LONG']],
  ] as const) {
    const told: string[] = []
    await encodePrompt(silent, model, 'cat '.repeat(count), 1, ({ code }) => told.push(code))
    assert.deepEqual(told, codes)
  }
})

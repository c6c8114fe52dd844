import assert from 'node:assert/strict'
import { test } from 'node:test'
import { sdxl } from '../../../lib/models/sdxl.js'
import { textIdsInputs, textIdsShapes, tokenize } from '../../../lib/models/text.js'
import type { Tokenizer } from '../../../lib/models/tokenizer.js'

const EOS = 9

/** A tokenizer of chunks of 4 tokens, BOS 8 and EOS 9 around letters: a is 1. */
const letters: Tokenizer = {
  ...{ vocabulary: 10, length: 4, bosId: 8, eosId: EOS, padId: EOS },
  ids: (text, most) => [...text].slice(0, most).map((letter) => letter.charCodeAt(0) - 96),
  chunk(ids, chunks) {
    const chunk = (i: number) => [8, ...ids.slice(2 * i, 2 * i + 2), EOS, EOS, EOS].slice(0, 4)
    return Int32Array.from(Array.from({ length: chunks }, (_, i) => chunk(i)).flat())
  },
}

test('texts are given to a step as ids of all chunks, the rows that make a context, and the end of each first chunk', () => {
  const model = { family: sdxl, tokenizers: { text_encoder: letters, text_encoder_2: letters } }
  // Two chunks; the tokenizer's are of 2 tokens, not 75.
  const options = { maxTokenLength: 150 }
  const texts = ['abc', 'd'].map((text) => tokenize(model, text, options).ids)
  const ids = Int32Array.of(8, 1, 2, EOS, 8, 3, EOS, EOS, 8, 4, EOS, EOS, 8, EOS, EOS, EOS)
  const rows = Int32Array.of(0, 1, 2, 5, 6, 7, 8, 9, 10, 13, 14, 15)
  const inputs = textIdsInputs(model, texts, options)
  assert.deepEqual(inputs, {
    'text_encoder.ids': { shape: [4, 4], data: ids },
    'text_encoder.rows': { shape: [2, 6], data: rows },
    'text_encoder_2.ids': { shape: [4, 4], data: ids },
    'text_encoder_2.rows': { shape: [2, 6], data: rows },
    'text_encoder_2.last': { shape: [2], data: Int32Array.of(3, 10) },
  })
  const shapes = Object.fromEntries(Object.entries(inputs).map(([name, { shape }]) => [name, shape]))
  assert.deepEqual(textIdsShapes(model, 2, options), shapes)
})

test('a text is cut where any of its encoders has more tokens than fit', () => {
  const model = { family: sdxl, tokenizers: { text_encoder: letters, text_encoder_2: { ...letters, length: 5 } } }
  const cut = (text: string, maxTokenLength: number) => tokenize(model, text, { maxTokenLength }).cut
  assert.deepEqual([cut('', 75), cut('ab', 75), cut('abc', 75), cut('abcd', 150), cut('abcde', 150)], [false, false, true, false, true])
})

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { weigh } from '../../../lib/draw/context.js'
import { MOST_CHUNKS, parseEmphasis, toChunks } from '../../../lib/draw/emphasis.js'
import type { Tokenizer } from '../../../lib/models/tokenizer.js'
import { pattern } from '../../train/pattern.js'

/** Texts and their weights, to nine digits. */
function read(prompt: string): [string, number][][] {
  return parseEmphasis(prompt).map((section) => section.map(({ text, weight }) => [text, Number(weight.toPrecision(9))]))
}

test('brackets mean what they mean in A1111', () => {
  // The examples of its parse_prompt_attention, and its traps.
  const examples: Record<string, [string, number][]> = {
    'normal text': [['normal text', 1]],
    'an (important) word': [
      ['an ', 1],
      ['important', 1.1],
      [' word', 1],
    ],
    '(unbalanced': [['unbalanced', 1.1]],
    '\\(literal\\]': [['(literal]', 1]],
    '(unnecessary)(parens)': [['unnecessaryparens', 1.1]],
    'a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).': [
      ['a ', 1],
      ['house', 1.573],
      [' ', 1.1],
      ['on', 1],
      [' a ', 1.1],
      ['hill', 0.55],
      [', sun, ', 1.1],
      ['sky', 1.4641],
      ['.', 1.1],
    ],
    '[less]': [['less', 0.909090909]],
    '(a: 1.4 ) b': [
      ['a', 1.4],
      [' b', 1],
    ],
    'a:1.2) b)': [['a:1.2) b)', 1]],
    'a ] b': [['a ] b', 1]],
    '(a [b) c]': [
      ['a ', 1.1],
      ['b', 1],
      [' c', 0.909090909],
    ],
    '(a:-1)(b:0)(c:+.5)': [
      ['a', -1],
      ['b', 0],
      ['c', 0.5],
    ],
    'a \\\\ b\\c': [['a \\ bc', 1]],
    '': [],
  }
  for (const [prompt, words] of Object.entries(examples)) assert.deepEqual(read(prompt), [words], prompt)
})

test('BREAK ends a section; in brackets that change its weight it is a word, as in A1111', () => {
  assert.deepEqual(read('a BREAK b'), [[['a', 1]], [['b', 1]]])
  assert.equal(read('BREAK a BREAK BREAK b').length, 4)
  assert.deepEqual(read('BREAKFAST break, \u672cBREAK'), [[['BREAKFAST break, \u672cBREAK', 1]]])
  // What its parse_prompt_attention gives, where a BREAK is ["BREAK", -1] and nothing else.
  assert.deepEqual(read('(a BREAK b:1.2)'), [
    [
      ['a', 1.2],
      ['BREAK', -1.2],
      ['b', 1.2],
    ],
  ])
  assert.deepEqual(read('x ((a BREAK b)'), [
    [
      ['x ', 1],
      ['a', 1.21],
      ['BREAK', -1.21],
      ['b', 1.21],
    ],
  ])
  assert.deepEqual(read('(a BREAK b:1.0) c'), [[['a', 1]], [['b c', 1]]])
  assert.deepEqual(read('([a BREAK b])'), [[['a', 1]], [['b', 1]]])
  assert.deepEqual(read('(a BREAK b:-1)'), [
    [
      ['a', -1],
      ['BREAK', 1],
      ['b', -1],
    ],
  ])
})

test('what is not supported is refused, not drawn as words', () => {
  for (const prompt of ['[cat:dog:0.5]', 'a [dog:10]', '[a|b]', '[[a]:b:.5]', '(x [a::2])', '[a:1.2]', '[a:b:5e-1]']) {
    assert.throws(
      () => parseEmphasis(prompt),
      { code: 'PROMPT_INVALID', message: /stays the same at all steps but received "\[.*write \\\[$/ },
      prompt,
    )
  }
  assert.throws(() => parseEmphasis('a AND b'), { code: 'PROMPT_INVALID', message: /joined with AND/ })
  assert.throws(() => parseEmphasis('a \\AND b'), { code: 'PROMPT_INVALID', message: /joined with AND/ })
  const nested = { code: 'PROMPT_INVALID', message: 'Expected at most 100 brackets in one another in a prompt but received more' }
  for (const bracket of ['(', '[(']) assert.throws(() => parseEmphasis(bracket.repeat(101)), nested)
  assert.throws(() => parseEmphasis('(a:1.2.3)'), { code: 'PROMPT_INVALID', message: /a number after : in a bracket .* received "1.2.3"/ })
  assert.throws(() => parseEmphasis('x'.repeat(50_001)), { code: 'PROMPT_INVALID', message: /at most 50000 characters/ })
  for (const prompt of ['\\[a|b\\]', 'a|b', '[a: b]', 'BRAND', 'éAND', 'and']) parseEmphasis(prompt)
})

test('prompts that are long or deep are read, or refused, soon', () => {
  const parts = ['|', ':', '\\', ' ', ': ', '(a:1.1)', '[a]', 'BREAK ', 'BREAK,'].map((part) => part.repeat(50_000 / part.length))
  parts.push(`[a:${'1'.repeat(49_000)}x]`)
  const deep = ['(', '['].map((bracket) => bracket.repeat(99))
  for (const prompt of [...parts, ...deep, ...deep.map((brackets) => brackets + '(a)'.repeat(15_000))]) parseEmphasis(prompt)
  for (const part of ['(a', '[', '((a:1.1)', '[|'])
    assert.throws(() => parseEmphasis(part.repeat(50_000 / part.length)), { code: 'PROMPT_INVALID' })
})

/** A tokenizer that gives each word one id: its number, or 7 for a comma. */
const words: Tokenizer = {
  vocabulary: 1000,
  length: 77,
  bosId: 1,
  eosId: 2,
  padId: 0,
  ids: (text, most) => (text.match(/\d+|,/g) ?? []).slice(0, most).map((word) => (word === ',' ? 7 : Number(word))),
  chunk: () => assert.fail(),
}

function chunk(prompt: string): number[][] {
  return toChunks(parseEmphasis(prompt), words).chunks.map(({ ids, weights }) => {
    assert.deepEqual([ids.length, ids[0], weights.length], [77, 1, 77])
    const end = ids.indexOf(2)
    assert.ok(ids.subarray(end + 1).every((id) => id === 0) && weights.subarray(end).every((weight) => weight === 1))
    return [...ids.subarray(1, end)]
  })
}

const numbers = (from: number, count: number) => Array.from({ length: count }, (_, i) => from + i)

test('prompts of more tokens than fit go on in another chunk, behind a comma that is near', () => {
  const of = (...parts: (number[] | ',')[]) => parts.map((part) => (part === ',' ? part : part.join(' '))).join(' ')
  assert.deepEqual(chunk(''), [[]])
  assert.deepEqual(chunk(of(numbers(100, 75))), [numbers(100, 75)])
  assert.deepEqual(chunk(of(numbers(100, 160))), [numbers(100, 75), numbers(175, 75), numbers(250, 10)])
  // 20 tokens from the comma on are moved, 21 are not.
  assert.deepEqual(chunk(of(numbers(100, 55), ',', numbers(200, 25))), [[...numbers(100, 55), 7], numbers(200, 25)])
  assert.deepEqual(chunk(of(numbers(100, 54), ',', numbers(200, 25))), [[...numbers(100, 54), 7, ...numbers(200, 20)], numbers(220, 5)])
  assert.deepEqual(chunk(of(numbers(100, 74), ',', numbers(200, 2))), [
    [...numbers(100, 74), 7],
    [200, 201],
  ])
  assert.deepEqual(chunk(of(numbers(100, 75), ',', [200])), [numbers(100, 75), [7, 200]])
})

test('BREAK begins another chunk, and one at the end does not', () => {
  assert.deepEqual(chunk('10 BREAK 11'), [[10], [11]])
  assert.deepEqual(chunk('BREAK 10 BREAK BREAK 11 BREAK'), [[], [10], [], [11]])
  assert.deepEqual(chunk('BREAK'), [[]])
})

test('weights lie at their tokens', () => {
  const [{ ids, weights } = assert.fail()] = toChunks(parseEmphasis('10 (11 12:1.5) [13]'), words).chunks
  assert.deepEqual([...ids.subarray(0, 6)], [1, 10, 11, 12, 13, 2])
  assert.deepEqual([...weights.subarray(0, 6)], [...Float32Array.of(1, 1, 1.5, 1.5, 1 / 1.1, 1)])
})

test('there is an end to the chunks, which is told', () => {
  const most = 75 * MOST_CHUNKS
  for (const [count, cut] of [
    [most, false],
    [most + 1, true],
    [3 * most, true],
  ] as const) {
    const found = toChunks(parseEmphasis(numbers(100, count).join(' ')), words)
    assert.deepEqual([found.chunks.length, found.cut], [MOST_CHUNKS, cut])
  }
})

test('embeddings are multiplied, and their mean stays', () => {
  const states = pattern('states', 77 * 8).map((value) => value + 0.1)
  const weights = new Float32Array(77).fill(1)
  weights.set([1.5, 0.5, -2], 3)
  const mean = (values: Float32Array) => values.reduce((sum, value) => sum + value, 0) / values.length
  const weighed = states.slice()
  weigh(weighed, weights)
  const scaled = states.map((value, i) => value * weights[Math.floor(i / 8)]!)
  const factor = mean(states) / mean(scaled)
  for (const [i, value] of weighed.entries()) assert.ok(Math.abs(value - scaled[i]! * factor) < 1e-5)
  assert.ok(Math.abs(mean(weighed) - mean(states)) < 1e-6)
  const same = states.slice()
  weigh(same, new Float32Array(77).fill(1))
  assert.deepEqual(same, states)
  weigh(same, new Float32Array(77))
  assert.ok(same.every((value) => value === 0))
})

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { captionOf, conceptOf } from '../../../lib/data/captions.js'

test('a caption is the first line of its file, trimmed', () => {
  const cases: [string, string][] = [
    ['a cat', 'a cat'],
    ['  a cat \r\nsecond line', 'a cat'],
    ['\uFEFFa cat\n', 'a cat'],
    ['a cat\rsecond', 'a cat'],
    ['', ''],
    ['\na cat', ''],
    ['一只猫, 🐈\n', '一只猫, 🐈'],
  ]
  for (const [text, caption] of cases) assert.equal(captionOf(text), caption)
})

test('a folder named N_class gives repeats and class tokens', () => {
  assert.deepEqual(conceptOf('10_3d style'), { repeats: 10, classTokens: '3d style' })
  assert.deepEqual(conceptOf('3_sks_dog'), { repeats: 3, classTokens: 'sks_dog' })
  assert.deepEqual(conceptOf('007_x'), { repeats: 7, classTokens: 'x' })
  assert.deepEqual(conceptOf('5'), { repeats: 5, classTokens: '' })
})

test('other folders are no concepts', () => {
  for (const name of ['cats', '0_cats', '-1_cats', '1.5_cats', '10cats', '_10', '', '1e3_cats', '0x10_cats'])
    assert.equal(conceptOf(name), undefined, name)
})

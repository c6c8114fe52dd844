import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Row } from '../../../lib/options/rows.js'
import { generateTable, trainTable } from '../../../lib/options/table.js'
import { jsonFile, pngFile } from '../../../lib/options/values.js'

const rows = [...Object.entries<Row>(trainTable), ...Object.entries<Row>(generateTable)]

test('what the data of a kind say is what it accepts', () => {
  for (const [name, { kind }] of rows) {
    const { type, min, max, step, words, aliases } = kind
    const accepted = (value: unknown) => assert.notEqual(kind.accept(value), undefined, `${name} ${String(value)}`)
    const refused = (value: unknown) => assert.equal(kind.accept(value), undefined, `${name} ${String(value)}`)
    if (type === 'integer' || type === 'number') {
      assert.ok(min !== undefined, name)
      accepted(min)
      refused(min - (step ?? 1))
      accepted(max ?? Number.MAX_SAFE_INTEGER)
      if (max !== undefined) refused(max + (step ?? 1))
      if (step !== undefined) refused(min + step / 2)
      if (type === 'integer') refused(min + 0.5)
      refused(Number.NaN)
    } else if (type === 'size') {
      for (const size of [1, '900MB', '7.5 GiB', '8g', 'auto']) accepted(size)
      for (const size of [0, -1, '8 apples', 'GB', '1e9', Number.NaN, 2 ** 60]) refused(size)
      assert.equal(kind.accept('8GB'), 2 ** 33)
    } else if (type === 'choice') {
      for (const word of words ?? []) assert.equal(kind.accept(word), word)
      for (const [alias, word] of Object.entries(aliases ?? {})) assert.equal(kind.accept(alias), word)
      refused('other')
    } else if (type === 'boolean') {
      for (const value of [true, false]) accepted(value)
      refused('true')
    } else {
      accepted(type === 'colour' ? '#123456' : kind === jsonFile ? 'a.json' : 'a.png')
      refused(0)
    }
    refused(null)
  }
})

test('every default is of its kind, and every value but a boolean has a placeholder', () => {
  for (const [name, { kind, default: value }] of rows) {
    assert.equal(kind.type === 'boolean', kind.placeholder === undefined, name)
    if (value && kind.type !== 'colour') assert.deepEqual(kind.accept(value()), value(), name)
  }
})

test('a picture has the ending of a PNG, since it is one', () => {
  for (const path of ['a.png', 'new/a.PNG', 'a-1.5.png']) assert.equal(pngFile.accept(path), path)
  for (const path of ['a.jpg', 'a', 'folder/', '.png', 'a/.png', 'a.png/', '', 1]) assert.equal(pngFile.accept(path), undefined)
})

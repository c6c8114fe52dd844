import assert from 'node:assert/strict'
import { test } from 'node:test'
import { drawingNames, insteadInDrawing } from '../../../lib/options/drawing-names.js'
import { kebab } from '../../../lib/options/resolve.js'
import type { Row } from '../../../lib/options/rows.js'
import { generateTable } from '../../../lib/options/table.js'

test('advice on drawing is for names that are no options of it, once each, and names options that there are', () => {
  const names = drawingNames()
  const own = Object.entries<Row>(generateTable).flatMap(([name, { kohya = [] }]) => [kebab(name), ...kohya])
  assert.equal(new Set(names).size, names.length)
  for (const name of names) {
    assert.ok(insteadInDrawing(name, (option) => (Object.hasOwn(generateTable, option) ? option : assert.fail(option))))
  }
  assert.deepEqual(
    names.filter((name) => own.includes(name)),
    [],
  )
})

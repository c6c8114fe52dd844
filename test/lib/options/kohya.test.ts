import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { insteadOf, insteadOfAll } from '../../../lib/options/kohya.js'
import { trainTable } from '../../../lib/options/table.js'

const own = Object.values(trainTable).flatMap(({ kohya = [] }: { kohya?: string[] }) => kohya)

test("advice is for kohya's options that are none here, once each, and names options that there are", () => {
  const names = insteadOfAll()
  assert.ok(names.length > 80)
  assert.equal(new Set(names).size, names.length)
  for (const name of names) {
    assert.ok(!own.includes(name), name)
    assert.ok(insteadOf(name, (option) => (Object.hasOwn(trainTable, option) ? option : assert.fail(option))))
  }
  assert.equal(
    insteadOf('toString', (option) => option),
    undefined,
  )
})

test('docs/kohya.md has the defaults that are here', async () => {
  const text = await readFile(join(fileURLToPath(new URL('../../../..', import.meta.url)), 'docs/kohya.md'), 'utf8')
  for (const [, flag, value] of text.matchAll(/^\| `--([a-z_]+)` \| [^|]+ \| `([^`]+)` \|/gm)) {
    const [, row] =
      Object.entries(trainTable).find(([, { kohya = [] }]: [string, { kohya?: string[] }]) => kohya.includes(flag as string)) ?? []
    assert.equal(String(row?.default?.()), value, flag)
  }
})

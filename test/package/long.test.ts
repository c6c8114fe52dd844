import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../../..', import.meta.url))
const files = readdirSync(join(root, 'test'), { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.ts'))
const text = (name: string) => readFileSync(join(root, 'test', name), 'utf8')

test('npm test leaves out only what files ask test/long.ts about, and npm run test:long runs these files', () => {
  const others = files.filter((name) => name !== 'long.ts' && name !== 'package/long.test.ts')
  assert.deepEqual(
    others.filter((name) => text(name).includes('LORAFUSE_TEST_LONG')),
    [],
  )
  // scripts/test.js looks into them for the import.
  const asking = others.filter((name) => /\blong\.js'/.test(text(name)))
  assert.ok(asking.length > 5)
  assert.deepEqual(
    asking.filter((name) => !/^gpu\//.test(name) && !(name.endsWith('.test.ts') && /from '[./]+\/long\.js'/.test(text(name)))),
    [],
  )
})

import assert from 'node:assert/strict'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { LorafuseError, shown } from '../../lib/errors.js'

const root = fileURLToPath(new URL('../../..', import.meta.url))

/** Codes of errors and warnings in the sources under a folder. */
async function codesIn(folder: string, files: RegExp, code: RegExp): Promise<string[]> {
  const names = (await readdir(join(root, folder), { recursive: true })).filter((name) => files.test(name))
  const texts = await Promise.all(names.map((name) => readFile(join(root, folder, name), 'utf8')))
  return texts.flatMap((text) => [...text.replace(/^ *\/\/.*$/gm, '').matchAll(code)].map(([, found]) => found as string))
}

test('docs/errors.md lists every code that the sources have, once, and no other', async () => {
  const library = await codesIn('lib', /\.ts$/, /(?:LorafuseError\(\s*|\bcode(?:: | = ))'([A-Z_]+)'/g)
  const core = await codesIn('native', /\.(cc|cu|cuh|h)$/, /(?<!getenv\()"([A-Z_]{4,})"/g)
  assert.ok(library.length > 30 && core.length > 30, `${library.length} in lib, ${core.length} in native`)
  const text = await readFile(join(root, 'docs/errors.md'), 'utf8')
  const listed = [...text.matchAll(/^\| `([A-Z_]+)` \|/gm)].map(([, code]) => code)
  assert.deepEqual(listed.sort(), [...new Set([...library, ...core])].sort())
})

test('every code has a meaning and, but for faults of the package, a remedy', async () => {
  const [known = '', faults = ''] = (await readFile(join(root, 'docs/errors.md'), 'utf8')).split('## Bugs')
  const rows = (text: string) => text.split('\n').filter((line) => line.startsWith('| `'))
  assert.ok(rows(known).every((row) => /^\| `[A-Z_]+` \| \S.*\. \| \S.*\. \|$/.test(row)))
  assert.ok(rows(faults).every((row) => /^\| `[A-Z_]+` \| \S.*\. \|$/.test(row)))
})

test('control characters of names are escaped in a sentence and its list, so that no line can be forged', () => {
  const { message } = new LorafuseError('NO_IMAGES', 'in a\n  b received:', { lines: ['a\n  error b.png', 'c\x1b[2Jd \u202egnp.e, é 🎨'] })
  assert.equal(message, 'in a\\u000a  b received:\n  a\\u000a  error b.png\n  c\\u001b[2Jd \\u202egnp.e, é 🎨')
  assert.equal(new LorafuseError('NO_IMAGES', 'x', { cause: 1 }).cause, 1)
  assert.ok(!('cause' in new LorafuseError('NO_IMAGES', 'x')))
})

test('values are shown on one line and cut, however long they may be', () => {
  assert.equal(shown('a\nb'), '"a\\nb"')
  assert.equal(shown(''), 'an empty text')
  assert.deepEqual([shown('x'.repeat(1e6)).length, shown('x'.repeat(1e6), 160).length], [81, 161])
  assert.equal(shown([1, 'a'], 160), "[ 1, 'a' ]")
})

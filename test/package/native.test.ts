import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

const program = fileURLToPath(new URL('../../../build/Release/native_tests', import.meta.url))

test('the native tests pass', { timeout: 1_800_000 }, (t) => {
  const { status, signal, stdout, stderr, error } = spawnSync(program, { encoding: 'utf8', maxBuffer: 2 ** 26 })
  assert.ifError(error)
  assert.equal(status, 0, `${signal ?? ''}\n${stdout}\n${stderr}`)
  t.diagnostic(stdout.trim().split('\n').at(-1) ?? '')
})

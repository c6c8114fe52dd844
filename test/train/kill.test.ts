import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { test } from 'node:test'
import { root } from './golden.js'

test('a training that is killed at random moments and resumed ends in the bits of one that is left alone', () => {
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(root, 'scripts/kill.js'), '--kills', '4', '--steps', '20'], {
    encoding: 'utf8',
  })
  assert.equal(status, 0, stdout + stderr)
  assert.match(stdout, /kill 4: \d+ whole files\n/)
  assert.match(stdout, /run \d+: the same \d+ bytes\n$/)
})

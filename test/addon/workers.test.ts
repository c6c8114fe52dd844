import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { long } from '../long.js'

const program = fileURLToPath(new URL('terminated.js', import.meta.url))

test('a Worker that is terminated in the middle of a step leaves no file mapped, no thread and no memory', { timeout: 300_000 }, () => {
  const { stdout, stderr, status, signal } = spawnSync(process.execPath, [program, '1', long ? '30' : '12'], { encoding: 'utf8' })
  assert.equal(stderr, '')
  assert.equal(status, 0, `${signal ?? ''} ${stdout}`)
  const { early, late } = JSON.parse(stdout) as Record<string, { mapped: number; threads: number; rss: number }>
  assert.equal(late!.mapped, 0, stdout)
  assert.equal(late!.threads, early!.threads, stdout)
  // A session that is left behind takes 10 MB and more.
  assert.ok(late!.rss - early!.rss < 60 * 2 ** 20, stdout)
})

test('process.exit in the middle of a step ends the process with its own code', { timeout: 300_000 }, () => {
  for (let seed = 0; seed < (long ? 8 : 3); seed++) {
    const { stdout, stderr, status, signal } = spawnSync(process.execPath, [program, String(seed), 'exit'], { encoding: 'utf8' })
    assert.deepEqual({ stdout, stderr, status, signal }, { stdout: '', stderr: '', status: 7, signal: null }, `seed ${seed}`)
  }
})

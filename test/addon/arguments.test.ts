import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { long } from '../long.js'

const fuzz = fileURLToPath(new URL('fuzz.js', import.meta.url))

// A process of its own, so that its end is seen, with 8 GB of addresses, so that no size that it asks for starves the machine.
for (const seed of long ? [1, 2, 3, 4] : [1])
  test(`no argument crashes, aborts, hangs or prints, whatever it is: seed ${seed}`, { timeout: 300_000 }, () => {
    const script = `ulimit -v 8000000 && exec "$0" "$1" ${seed} 20`
    const { stdout, stderr, status, signal } = spawnSync('sh', ['-c', script, process.execPath, fuzz], { encoding: 'utf8' })
    assert.equal(stderr, '')
    assert.equal(status, 0, `${signal ?? ''} ${stdout}`)
    const outcomes = JSON.parse(stdout) as Record<string, number>
    for (const outcome of ['answered', 'ARGUMENT_INVALID', 'DISPOSED', 'FROM_A_GETTER']) assert.ok(outcomes[outcome]! > 0, stdout)
  })

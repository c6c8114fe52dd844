import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { threadWarnings } from '../../lib/device.js'
import { readModel } from '../../lib/models/read.js'
import { native } from '../../lib/native.js'
import { tiny } from '../fixtures/lora.js'
import { temporaryFolder } from '../fixtures/temporary.js'

const most = availableParallelism()

test('a session has as many threads as processors at most, and a warning where it has fewer than were asked for', async () => {
  const { networks } = await readModel(tiny)
  for (const [asked, threads] of [
    [1, 1],
    [1024, most],
  ] as const) {
    const session = new (native().Session)({ device: 'cpu', threads: asked, precision: 'f32', networks })
    assert.equal(session.threads(), threads)
    assert.equal(threadWarnings(asked, session).length, Number(asked > threads))
    session.dispose()
  }
  const message = `Expected ${most} threads but received 0, as the system starts no more`
  assert.deepEqual(threadWarnings(most, { threads: () => 0 }), [{ type: 'warning', code: 'THREADS_LIMITED', message }])
})

test('a training with few addresses left and 1024 threads ends, with a warning', { timeout: 120_000 }, async (t) => {
  const output = await temporaryFolder(t)
  const cli = fileURLToPath(new URL('../../lib/cli/cli.js', import.meta.url))
  const images = join(tiny, '../emoji')
  const words = [
    'train',
    '--model',
    tiny,
    '--images',
    images,
    '--output',
    output,
    '--resolution',
    '64',
    '--steps',
    '1',
    '--threads',
    '1024',
  ]
  const { stderr, status, signal } = spawnSync('sh', ['-c', 'ulimit -v 2500000 && exec "$0" "$@"', process.execPath, cli, ...words], {
    encoding: 'utf8',
  })
  assert.equal(status, 0, `${signal ?? ''} ${stderr}`)
  assert.match(stderr, /THREADS_LIMITED: Expected 1024 threads but received \d+/)
})

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { test } from 'node:test'
import { readModel } from '../../lib/models/read.js'
import type { SessionOptions } from '../../lib/native.js'
import { tiny } from '../fixtures/lora.js'

/** Encodes texts of these numbers of chunks, one after the other; returns how many programs were made. */
async function programs(counts: number[]): Promise<number> {
  const { networks } = await readModel(tiny)
  const options: SessionOptions = { device: 'cpu', threads: 1, precision: 'f32', networks: { text_encoder: networks.text_encoder! } }
  // The core says what it makes on the standard error of its own process.
  const program = `
    const { native } = await import(${JSON.stringify(import.meta.resolve('../../lib/native.js'))})
    const session = new (native().Session)(${JSON.stringify(options)})
    for (const n of ${JSON.stringify(counts)}) await session.run('text_encoder', 'encode', { ids: { shape: [n, 2], data: new Int32Array(2 * n) } })`
  const env = { ...process.env, LORAFUSE_DEBUG: 'plan' }
  const { stderr, status } = spawnSync(process.execPath, ['--input-type=module', '-e', program], { encoding: 'utf8', env })
  assert.equal(status, 0, stderr)
  return stderr.match(/^plan text_encoder\.encode/gm)?.length ?? 0
}

test('a session keeps the programs of the last shapes, and not of all that it ever ran', { timeout: 300_000 }, async () => {
  const upTo = (count: number) => Array.from({ length: count }, (_, i) => i + 1)
  // Twice as many calls as shapes.
  assert.equal(await programs([...upTo(32), ...upTo(32)]), 32)
  assert.equal(await programs([...upTo(40), 40, 39, 1]), 41)
})

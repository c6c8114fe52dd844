import assert from 'node:assert/strict'
import { test } from 'node:test'
import { openSession } from '../../lib/models/model.js'
import { readModel } from '../../lib/models/read.js'
import { optimizers } from '../../lib/train/optimizers.js'
import { tiny } from '../fixtures/lora.js'
import { pattern } from './pattern.js'

test('a buffer is read to memory that is there, of its length alone', async (t) => {
  const session = openSession(await readModel(tiny), { device: 'cpu', threads: 1, precision: 'f32' })
  t.after(() => session.dispose())
  const [layer] = session.layers('unet')
  session.attach([{ network: 'unet', path: layer!.path, kind: 'lora', rank: 2, scale: 1, group: 0 }], optimizers.adamw.spec)
  const { count } = session.buffers().find(({ name }) => name === 'weights')!
  const written = pattern('w', count)
  session.write('weights', written)
  const into = new Float32Array(count + 2).subarray(1, -1)
  assert.equal(session.read('weights', into), into)
  assert.deepEqual(into, written)
  assert.deepEqual([into.buffer.byteLength, new Float32Array(into.buffer).at(-1)], [4 * (count + 2), 0])
  assert.deepEqual(session.read('weights'), written)
  for (const bad of [new Float32Array(count - 1), new Float32Array(count + 1), new Int32Array(count), {}, null] as Float32Array[]) {
    assert.throws(() => session.read('weights', bad), { code: 'ARGUMENT_INVALID' })
  }
  assert.throws(() => session.read('nothing', into), { code: 'ARGUMENT_INVALID' })
})

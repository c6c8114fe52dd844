import assert from 'node:assert/strict'
import { test } from 'node:test'
import { LossScale } from '../../../lib/train/loss-scale.js'

const gpu = { device: 'cuda', precision: 'fp16' }

test('the loss is scaled only where gradients are computed in fp16', () => {
  assert.equal(new LossScale(gpu).state.value, 65536)
  for (const other of [
    { device: 'cpu', precision: 'fp16' },
    { ...gpu, precision: 'bf16' },
    { ...gpu, precision: 'f32' },
  ]) {
    const scale = new LossScale(other)
    for (let i = 0; i < 5000; i++) scale.made()
    assert.equal(scale.state.value, 1)
    assert.ok(!scale.canShrink)
  }
})

test('2000 updates in a row double the scale, one that overflows halves it and begins the count anew', () => {
  const scale = new LossScale(gpu)
  for (let i = 0; i < 1999; i++) scale.made()
  scale.skipped()
  assert.deepEqual(scale.state, { value: 32768, growing: 0, skipped: 1 })
  for (let i = 0; i < 1999; i++) scale.made()
  assert.equal(scale.state.value, 32768)
  scale.made()
  assert.deepEqual(scale.state, { value: 65536, growing: 0, skipped: 1 })
})

test('a saved scale goes on where it was; below 1 it does not shrink', () => {
  const scale = new LossScale(gpu, { value: 2, growing: 1999, skipped: 7 })
  assert.ok(scale.canShrink)
  scale.skipped()
  assert.ok(!scale.canShrink)
  assert.deepEqual(scale.state, { value: 1, growing: 0, skipped: 8 })
})

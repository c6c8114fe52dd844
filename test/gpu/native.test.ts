import { test } from 'node:test'
import { everyKernel } from '../native/native.js'
import { hasGpu } from './emulated.js'

if (hasGpu()) {
  const timeout = 3_600_000
  const words = [' gpu ']
  // Both at once: each keeps one core busy.
  const turing = everyKernel(words, { PTXEMU_GPU: '75' })
  // Another GPU and another arithmetic: cp.async, m16n8k16, bf16; sums in mma cut off, approximate instructions off by what they may be.
  const ampere = everyKernel(words, { PTXEMU_GPU: '80', PTXEMU_ROUNDING: 'truncated', PTXEMU_JITTER: '1' })
  test('every row and network passes on sm_75', { timeout }, turing)
  test('every row and network passes on sm_80, whose sums are cut off and whose approximations are bad', { timeout }, ampere)
}

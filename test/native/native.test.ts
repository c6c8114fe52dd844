import { existsSync } from 'node:fs'
import { test } from 'node:test'
import { built, hasEmulator } from '../gpu/emulated.js'
import { nativeTests } from './native.js'

// All at once: each keeps one core busy.
const timeout = 1_800_000
const cpu = nativeTests(['--except', ' gpu '])
test('the native tests pass on every kind of CPU', { timeout }, cpu)

if (hasEmulator()) {
  const gpu = nativeTests(['--quick', '--every-kernel', ' gpu '])
  test('every kernel of the CUDA backend passes on the emulator', { timeout }, gpu)
}

const extension = built('extension/extension_tests')
if (existsSync(extension)) test('an op that lives in test files only passes', { timeout }, nativeTests([], {}, extension))

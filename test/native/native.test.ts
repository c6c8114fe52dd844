import { existsSync } from 'node:fs'
import { test } from 'node:test'
import { built, hasEmulator } from '../gpu/emulated.js'
import { everyKernel, nativeTests } from './native.js'

// All at once: each keeps one core busy.
const timeout = 1_800_000
const cpu = nativeTests(['--except', ' gpu '])
test('the native tests pass on every kind of CPU', { timeout }, async (t) => void (await cpu(t)))

if (hasEmulator()) test('every kernel of the CUDA backend passes on the emulator', { timeout }, everyKernel(['--quick', ' gpu ']))

const extension = built('extension/extension_tests')
if (existsSync(extension)) {
  const extensionTests = nativeTests([], {}, extension)
  test('an op and an optimizer that live in test files only pass', { timeout }, async (t) => void (await extensionTests(t)))
}

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { test } from 'node:test'
import { built, hasGpu } from './emulated.js'

if (hasGpu()) {
  for (const [program, what] of [
    ['emulator_tests', 'the PTX machine computes what the PTX ISA says, and finds what kernels do wrong'],
    ['runtime_tests', 'the CUDA runtime on top of it behaves as CUDA'],
  ] as const) {
    test(what, (t) => {
      const { status, stdout, stderr } = spawnSync(built(program), { encoding: 'utf8', maxBuffer: 2 ** 26 })
      const last = stdout.trim().split('\n').at(-1) ?? ''
      t.diagnostic(last)
      assert.equal(
        status,
        0,
        `${stdout
          .split('\n')
          .filter((line) => !line.startsWith('ok'))
          .join('\n')}\n${stderr}`,
      )
      assert.match(last, /^[1-9]\d* (passed|cases), 0 failed$/)
    })
  }
}

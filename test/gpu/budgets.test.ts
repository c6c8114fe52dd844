import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { before, test } from 'node:test'
import { type Budgets, budgetsFile, measure } from './budgets.js'
import { hasGpu } from './emulated.js'

if (hasGpu()) {
  let now: Budgets
  let allowed: Budgets
  before(async () => {
    now = await measure()
    allowed = JSON.parse(await readFile(budgetsFile, 'utf8')) as Budgets
  })

  test('no kernel has a stack, spills or touches local memory', () => {
    const kernels = Object.entries(now.code).flatMap(([architecture, each]) =>
      Object.entries(each).map((entry) => [architecture, ...entry] as const),
    )
    assert.ok(kernels.length > 100, `${kernels.length} kernels`)
    const bad = kernels.filter(([, , { stack, LDL, STL }]) => stack + LDL + STL > 0)
    assert.deepEqual(
      bad.map(([architecture, name]) => `${architecture} ${name}`),
      [],
    )
  })

  test('registers, shared memory and instructions of each kernel are what test/gpu/budgets.json says', (t) => {
    if (now.nvcc !== allowed.nvcc) {
      t.diagnostic(`compiled by nvcc ${now.nvcc}; the budgets are those of ${allowed.nvcc}, whose code is another`)
      return
    }
    for (const [architecture, kernels] of Object.entries(now.code)) {
      assert.deepEqual(kernels, allowed.code[architecture], `${architecture} changed: look at it, then npm run budgets`)
    }
  })

  test('bank conflicts and sectors of a step are what test/gpu/budgets.json says', (t) => {
    if (now.nvcc !== allowed.nvcc) {
      t.diagnostic(`compiled by nvcc ${now.nvcc}; the counts are those of ${allowed.nvcc}`)
      return
    }
    assert.deepEqual(now.counted, allowed.counted, 'a count changed: look at it, then npm run budgets')
  })
}

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

const program = fileURLToPath(new URL('../../../build/Release/native_tests', import.meta.url))

interface Suite {
  name: string
  passed: number
  failed: string[]
}

// `# suite`, then a line for each case: `ok …`, or `FAILED …` with two more that say what came and how to run it again.
function suitesOf(output: string): Suite[] {
  const suites: Suite[] = []
  let failed = false
  for (const line of output.split('\n')) {
    const suite = suites.at(-1)
    if (line.startsWith('# ')) suites.push({ name: line.slice(2), passed: 0, failed: [] })
    else if (suite && line.startsWith('ok ')) suite.passed++
    else if (suite && line.startsWith('FAILED ')) suite.failed.push(line)
    else if (suite && failed && line.startsWith('  ')) suite.failed.push(line)
    failed = line.startsWith('FAILED ') || (failed && line.startsWith('  '))
  }
  return suites
}

test('the native tests pass', { timeout: 900_000 }, async (t) => {
  assert.ok(existsSync(program), `Expected ${program}: build it with npm run build:tests`)
  const { status, signal, stdout, stderr, error } = spawnSync(program, { encoding: 'utf8', maxBuffer: 2 ** 26 })
  assert.ifError(error)
  for (const suite of suitesOf(stdout))
    await t.test(`${suite.name}: ${suite.passed + suite.failed.filter((line) => line.startsWith('FAILED')).length} cases`, () => {
      assert.equal(suite.failed.length, 0, suite.failed.join('\n'))
    })
  const last = stdout.trim().split('\n').at(-1) ?? ''
  assert.equal(status, 0, `${signal ?? ''}\n${stderr}\n${last}`)
  assert.match(last, /^[1-9]\d* passed, 0 failed$/)
})

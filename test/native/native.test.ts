import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { text } from 'node:stream/consumers'
import { test } from 'node:test'
import { built, hasGpu } from '../gpu/emulated.js'

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

const program = built('native_tests')
const start = (words: string[], env: NodeJS.ProcessEnv = {}) => spawn(program, words, { env: { ...process.env, ...env } })

async function passes(t: test.TestContext, child: ChildProcess): Promise<void> {
  const ended = new Promise<[number | null, string | null]>((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (...how) => resolve(how))
  })
  const [stdout, stderr, [status, signal]] = await Promise.all([text(child.stdout!), text(child.stderr!), ended])
  for (const suite of suitesOf(stdout))
    await t.test(`${suite.name}: ${suite.passed + suite.failed.filter((line) => line.startsWith('FAILED')).length} cases`, () => {
      assert.equal(suite.failed.length, 0, suite.failed.join('\n'))
    })
  const last = stdout.trim().split('\n').at(-1) ?? ''
  assert.equal(status, 0, `${signal ?? ''}\n${stderr}\n${last}`)
  assert.match(last, /^[1-9]\d* passed, 0 failed$/)
}

assert.ok(existsSync(program), `Expected ${program}: build it with npm run build:tests`)
// Both at once: each keeps one core busy.
const all = start([])
test('the native tests pass', { timeout: 1_800_000 }, (t) => passes(t, all))

if (hasGpu()) {
  // Another GPU and another arithmetic than above: cp.async, m16n8k16, bf16; sums in mma cut off, approximate instructions off by what they may be.
  const ampere = start([' gpu '], { PTXEMU_GPU: '80', PTXEMU_ROUNDING: 'truncated', PTXEMU_JITTER: '1' })
  test('those of gpus also pass on sm_80, whose sums are cut off and whose approximations are bad', { timeout: 1_800_000 }, (t) =>
    passes(t, ampere),
  )
}

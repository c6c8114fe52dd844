/** Runs native_tests and reports its suites as tests. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { text } from 'node:stream/consumers'
import type { TestContext } from 'node:test'
import { built } from '../gpu/emulated.js'

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

/** `words`: those of test/native/main.cc. The program starts at once; what comes back waits for its end. */
export function nativeTests(words: string[], env: NodeJS.ProcessEnv = {}, program = built('native_tests')) {
  assert.ok(existsSync(program), `Expected ${program}: build it with npm run build:tests`)
  const child = spawn(program, words, { env: { ...process.env, ...env } })
  const ended = new Promise<[number | null, string | null]>((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (...how) => resolve(how))
  })
  const all = Promise.all([text(child.stdout), text(child.stderr), ended])
  /** Reports the suites; returns what the program wrote to stderr. */
  return async (t: TestContext): Promise<string> => {
    const [stdout, stderr, [status, signal]] = await all
    for (const suite of suitesOf(stdout))
      await t.test(`${suite.name}: ${suite.passed + suite.failed.filter((line) => line.startsWith('FAILED')).length} cases`, () => {
        assert.equal(suite.failed.length, 0, suite.failed.join('\n'))
      })
    const last = stdout.trim().split('\n').at(-1) ?? ''
    assert.equal(status, 0, `${signal ?? ''}\n${stderr}\n${last}`)
    assert.match(last, /^[1-9]\d* passed, 0 failed$/)
    return stderr
  }
}

/**
 * Runs the chosen cases on an emulated GPU, and those that fill the largest tiles on one with a single multiprocessor, where small products
 * take them. Fails if a kernel of the CUDA backend runs in neither.
 */
export function everyKernel(words: string[], env: NodeJS.ProcessEnv = {}) {
  const runs = [
    nativeTests(['--idle', ...words], env),
    nativeTests(['--idle', ' filling tiles gpu '], { ...env, PTXEMU_MULTIPROCESSORS: '1' }),
  ]
  return async (t: TestContext): Promise<void> => {
    const [some, others] = [await runs[0]!(t), await runs[1]!(t)].map((stderr) => stderr.split('\n'))
    const idle = some!.filter((name) => name !== '' && others!.includes(name))
    assert.deepEqual(idle, [], 'kernels that no case runs')
  }
}

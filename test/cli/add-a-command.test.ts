import assert from 'node:assert/strict'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { lorafuse, type Result } from './run.js'

const program = fileURLToPath(new URL('hello.js', import.meta.url))
const run = (...words: string[]) => lorafuse(words, { program })

const ended = (code: number, stdout: string, stderr: string): Result => ({ code, signal: null, stdout, stderr })

test('a command that is one row in a table runs with its option, by both names', async () => {
  assert.deepEqual(await run('hello'), ended(0, 'hello\n', ''))
  assert.deepEqual(await run('hello', '--times', '2'), ended(0, 'hello hello\n', ''))
  assert.deepEqual(await run('hello', '--greeting_count=3'), ended(0, 'hello hello hello\n', ''))
})

test('it is in the help, and has help of its own', async () => {
  assert.match((await run('--help')).stdout, /doctor .*\n.*hello +Say hello/)
  const { stdout } = await run('hello', '--help')
  assert.match(stdout, /^Say hello\n\nlorafuse hello \[options\]\n/)
  assert.match(stdout, /^Greeting\n {2}--times N +How often to greet \(default 1; kohya --greeting_count\)$/m)
})

test('its options are checked, and its name and theirs are suggested', async () => {
  const mistakes: [string[], string][] = [
    [
      ['helo'],
      'error COMMAND_UNKNOWN: Expected train, plan, generate, doctor, hello for the command but received helo; did you mean hello?',
    ],
    [['hello', '--tmies', '2'], 'error OPTION_UNKNOWN: Expected an option of hello but received --tmies; did you mean --times?'],
    [['hello', '--times', '4'], 'error OPTION_INVALID: Expected a whole number from 1 to 3 for --times but received 4'],
  ]
  for (const [words, error] of mistakes) assert.deepEqual(await run(...words), ended(1, '', `${error}\n`))
})

test('shells complete it', async () => {
  const offered = async (...words: string[]) => (await run('--get-yargs-completions', 'lorafuse', ...words)).stdout.split('\n')
  assert.ok((await offered('')).some((line) => line.startsWith('hello')))
  assert.ok((await offered('hello', '--')).some((line) => line.startsWith('--times')))
})

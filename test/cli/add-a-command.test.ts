import assert from 'node:assert/strict'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { lorafuseTogether, type Result } from './run.js'

const program = fileURLToPath(new URL('hello.js', import.meta.url))
const run = (...lists: string[][]) => lorafuseTogether(lists, program)

const ended = (code: number, stdout: string, stderr: string): Result => ({ code, signal: null, stdout, stderr })

test('a command that is one row in a table runs with its option, by both names', async () => {
  assert.deepEqual(await run(['hello'], ['hello', '--times', '2'], ['hello', '--greeting_count=3']), [
    ended(0, 'hello\n', ''),
    ended(0, 'hello hello\n', ''),
    ended(0, 'hello hello hello\n', ''),
  ])
})

test('it is in the help, and has help of its own', async () => {
  const [all, own] = (await run(['--help'], ['hello', '--help'])).map(({ stdout }) => stdout) as [string, string]
  assert.match(all, /doctor .*\n.*hello +Say hello/)
  assert.match(own, /^Say hello\n\nlorafuse hello \[options\]\n/)
  assert.match(own, /^Greeting\n {2}--times N +How often to greet \(default 1; kohya --greeting_count\)$/m)
})

test('its options are checked, and its name and theirs are suggested', async () => {
  const mistakes: [string[], string][] = [
    [
      ['helo'],
      'error COMMAND_UNKNOWN: Expected train, plan, generate, bench, doctor, hello for the command but received helo; did you mean hello?',
    ],
    [['hello', '--tmies', '2'], 'error OPTION_UNKNOWN: Expected an option of hello but received --tmies; did you mean --times?'],
    [['hello', '--times', '4'], 'error OPTION_INVALID: Expected a whole number from 1 to 3 for --times but received 4'],
  ]
  const results = await run(...mistakes.map(([words]) => words))
  assert.deepEqual(
    results,
    mistakes.map(([, error]) => ended(1, '', `${error}\n`)),
  )
})

test('shells complete it', async () => {
  const lists = [[''], ['hello', '--']].map((words) => ['--get-yargs-completions', 'lorafuse', ...words])
  const [commands, options] = (await run(...lists)).map(({ stdout }) => stdout.split('\n')) as [string[], string[]]
  assert.ok(commands.some((line) => line.startsWith('hello')))
  assert.ok(options.some((line) => line.startsWith('--times')))
})

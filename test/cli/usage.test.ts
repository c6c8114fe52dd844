import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'
import { temporaryFolder } from '../fixtures/temporary.js'
import { long } from '../long.js'
import { cli, lorafuse, lorafuseTogether, type Result, root } from './run.js'

const tiny = join(root, 'examples/tiny-sd')

/** Runs command lines: in the long run each in a process of its own. */
async function each(lists: string[][]): Promise<Result[]> {
  if (!long) return lorafuseTogether(lists)
  const results: Result[] = []
  for (const words of lists) results.push(await lorafuse(words))
  return results
}

test('without a command, and with --help, it says what it can do', async () => {
  for (const { code, stdout, stderr } of await each([[], ['--help'], ['help'], ['-h']])) {
    assert.equal(code, 0)
    assert.match(stdout, /train .*\n.*plan .*\n.*generate .*\n.*bench .*\n.*doctor /)
    assert.equal(stderr, '')
  }
})

test('the help of a command lists every option with default and kohya name, within 120 columns', async () => {
  const { code, stdout } = await lorafuse(['train', '--help'])
  assert.equal(code, 0)
  const names =
    'model images output name resolution steps batch-size rank alpha learning-rate seed targets precision save-every resume json'
  for (const name of names.split(' ')) assert.match(stdout, new RegExp(`^  --${name}\\b`, 'm'))
  assert.match(stdout, /^ {2}--\[no-\]buckets /m)
  assert.match(stdout, /--rank N +Rank of the LoRA \(default 16; kohya --network_dim\)/)
  assert.ok(stdout.split('\n').every((line) => line.length <= 120))
  assert.match(stdout, /^ {2}--text-encoder-lr X \[X\] /m)
  assert.match(stdout, /constant_with_warmup for\s+constant/)
  const drawn = await lorafuse(['help', 'generate'])
  const others = 'model prompt lora steps cfg seed width height output compare negative-prompt'
  for (const name of others.split(' ')) assert.match(drawn.stdout, new RegExp(`^  --${name}\\b`, 'm'))
})

test("the version is the package's", async () => {
  const { version } = JSON.parse(await readFile(join(root, 'package.json'), 'utf8')) as { version: string }
  for (const { stdout } of await each([['--version'], ['-V'], ['version']])) assert.equal(stdout, `${version}\n`)
})

test('a shell completes commands, options, words of an option, and files after an option that takes one', async () => {
  const script = await lorafuse(['completion'])
  assert.equal(script.code, 0)
  assert.match(script.stdout, /lorafuse --get-yargs-completions/)
  const complete = async (...words: string[]) => {
    const { code, stdout, stderr } = await lorafuse(['--get-yargs-completions', 'lorafuse', ...words])
    assert.deepEqual([code, stderr], [0, ''])
    return stdout.split('\n').map((line) => line.split(/[\t:]/)[0])
  }
  const commands = await complete('')
  for (const command of ['train', 'generate', 'doctor']) assert.ok(commands.includes(command), command)
  const options = await complete('train', '--model', 'x', '--')
  for (const option of ['--rank', '--network_dim', '--no-buckets', '--help']) assert.ok(options.includes(option), option)
  assert.ok(!options.includes('--model'))
  assert.deepEqual(await complete('train', '--save-precision', 'b'), ['bf16', ''])
  assert.deepEqual(await complete('train', '--model', ''), [''])
})

const mistakes: { words: string[]; error: string }[] = [
  {
    words: ['trian'],
    error: 'error COMMAND_UNKNOWN: Expected train, plan, generate, bench, doctor for the command but received trian; did you mean train?',
  },
  { words: ['train'], error: 'error OPTION_REQUIRED: Expected a path for --model but received none' },
  {
    words: ['train', '--model', tiny, '--images', 'x', '--rnak', '4'],
    error: 'error OPTION_UNKNOWN: Expected an option of train but received --rnak; did you mean --rank?',
  },
  {
    words: ['train', '--model', tiny, '--images', 'x', '--network_dim', '0'],
    error: 'error OPTION_INVALID: Expected a whole number from 1 to 4096 for --network_dim but received 0',
  },
  {
    words: ['train', '--model', tiny, '--images', 'x', '--steps', 'many'],
    error: 'error OPTION_INVALID: Expected a whole number of 1 or more for --steps but received "many"',
  },
  {
    words: ['train', '--model', tiny, '--images', 'x', '--mixed_precision', 'f64'],
    error: 'error OPTION_INVALID: Expected auto, f32, fp16 or bf16 for --mixed_precision but received "f64"',
  },
  {
    words: ['train', '--model', tiny, '--images', 'k', '--images', 'p'],
    error: 'error OPTION_INVALID: Expected --images once but received --images k and --images p',
  },
  {
    words: ['train', '--model', tiny, '--images', 'x', '--name', 'w.safetensors'],
    error: 'error OPTION_INVALID: Expected a file name without folder and without .safetensors for --name but received "w.safetensors"',
  },
  {
    words: ['train', '--model', tiny, '--images', 'x', '--json=1'],
    error: 'error OPTION_INVALID: Expected true or false for --json but received "1"',
  },
  {
    words: ['generate', '--model', tiny],
    error: 'error OPTION_REQUIRED: Expected a text, or a list of them for --prompt but received none',
  },
  {
    words: ['generate', '--model', tiny, '--prompt', 'x', '--compare'],
    error: 'error OPTION_INVALID: Expected a LoRA to compare with but received none',
  },
  {
    words: ['generate', '--model', tiny, '--prompt', 'x <lora:a:b>'],
    error: 'error PROMPT_INVALID: Expected <lora:name:weight> in the prompt but received "<lora:a:b>"',
  },
  {
    words: ['train', '--network_dims', '4'],
    error: 'error OPTION_UNKNOWN: Expected an option of train but received --network_dims; did you mean --network_dim?',
  },
  {
    words: ['--flip'],
    error: 'error COMMAND_UNKNOWN: Expected train, plan, generate, bench, doctor for the command but received --flip',
  },
  {
    words: ['plan', '--model', tiny, '--image-count', '1', '--picture', 'plan.jpg'],
    error: 'error OPTION_INVALID: Expected the path of a .svg or .png file for --picture but received "plan.jpg"',
  },
  {
    words: ['bench', '--model', tiny, '--rank', '4', 'many'],
    error: 'error OPTION_INVALID: Expected a whole number from 1 to 4096, or up to 16 of them for --rank but received 4 "many"',
  },
  { words: ['doctor', '--all'], error: 'error OPTION_UNKNOWN: Expected an option of doctor but received --all' },
]

const answers = each(mistakes.map(({ words }) => words))
for (const [i, { words, error }] of mistakes.entries()) {
  test(`one sentence and exit code 1: lorafuse ${words.join(' ').replace(tiny, 'tiny-sd')}`, async () => {
    assert.deepEqual((await answers)[i], { code: 1, signal: null, stdout: '', stderr: `${error}\n` })
  })
}

test('with --json an error is a line on stdout', async () => {
  const { code, stdout, stderr } = await lorafuse(['train', '--rank', '0', '--json'])
  assert.equal(code, 1)
  assert.equal(stderr, '')
  const message = 'Expected a path for --model but received none'
  assert.deepEqual(JSON.parse(stdout), { type: 'error', code: 'OPTION_REQUIRED', message })
})

test('a LoRA that is not there is named with the places that were tried, and nothing is written', async (t) => {
  const folder = await temporaryFolder(t)
  const words = ['generate', '--model', tiny, '--output', join(folder, 'new', 'a.png'), '--prompt']
  for (const rest of [
    ['x', '--lora', join(folder, 'none:0.5')],
    ['x <lora:none>', '--lora-dir', folder],
  ]) {
    const { code, stderr } = await lorafuse([...words, ...rest])
    assert.equal(code, 1)
    assert.match(stderr, /^error LORA_NOT_FOUND: Expected a LoRA file for ".*none" but received none of /)
    assert.ok(stderr.includes(`${folder}/none, ${folder}/none.safetensors`), stderr)
  }
  assert.deepEqual(await readdir(folder), [])
})

test('a model that is not there, and one that is no checkpoint', async (t) => {
  const folder = await temporaryFolder(t)
  await writeFile(join(folder, 'model.ckpt'), 'x')
  for (const [name, code] of [
    ['none', 'MODEL_NOT_FOUND'],
    ['model.ckpt', 'SAFETENSORS_INVALID'],
  ] as const) {
    const { code: exit, stderr } = await lorafuse([
      'generate',
      '--model',
      join(folder, name),
      '--prompt',
      'x',
      '--output',
      join(folder, 'a.png'),
    ])
    assert.equal(exit, 1)
    assert.ok(stderr.startsWith(`error ${code}: `), stderr)
  }
  assert.deepEqual(await readdir(folder), ['model.ckpt'])
})

test('a reader that stops reading is no error', async () => {
  const script = 'set -o pipefail; "$0" "$@" | head -1; echo $?'
  const { stdout, stderr } = await promisify(execFile)('bash', ['-c', script, process.execPath, cli, 'train', '--help'])
  assert.match(stdout, /^Train a LoRA.*\n(0|141)\n$/)
  assert.equal(stderr, '')
})

test('docs/options.md is made from the options as they are', async () => {
  await promisify(execFile)(process.execPath, [join(root, 'scripts/docs.js'), '--check'])
})

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { promisify } from 'node:util'
import sharp from 'sharp'
import { without } from '../../lib/cli/shell.js'
import type { TrainEvent } from '../../lib/events.js'
import { copyImages } from '../fixtures/images.js'
import { tiny } from '../fixtures/lora.js'
import { temporaryFolder } from '../fixtures/temporary.js'
import { onlyLong } from '../long.js'
import { cli, lorafuse } from './run.js'

/** Runs a bash script in which `"$0" "$@"` is the command line. */
const inBash = (script: string, words: string[]) => promisify(execFile)('bash', ['-c', script, process.execPath, cli, ...words])

interface Place {
  folder: string
  output: string
  /** A training of two images at 64 pixels. */
  words: string[]
}

async function place(t: TestContext): Promise<Place> {
  const folder = await temporaryFolder(t)
  const output = join(folder, 'out')
  const images = await copyImages(folder, 2)
  const words = ['train', '--model', tiny, '--images', images, '--output', output, '--name', 'style', '--resolution', '64', '--rank', '2']
  return { folder, output, words }
}

/** Gives an option another value, or one. */
function replaced(words: readonly string[], option: string, value: string): string[] {
  return [...without([...words], option), option, value]
}

const linesOf = (text: string) => text.split('\n').filter((line) => line !== '')
const eventsOf = (text: string) => linesOf(text).map((line) => JSON.parse(line) as TrainEvent)

test('a training leaves a LoRA and its curve, tells the path on stdout and the rest on stderr', async (t) => {
  const { output, words } = await place(t)
  const { code, stdout, stderr } = await lorafuse([...words, '--steps', '3'])
  assert.equal(code, 0, stderr)
  assert.equal(stdout, `${join(output, 'style.safetensors')}\n`)
  assert.match(
    stderr,
    /^memory: \d+ MiB planned on the [CG]PU in \w+ \(\d+ MiB with --gradient-checkpointing\)\n {2}weights .*\n {2}caches.*/m,
  )
  assert.ok(stderr.indexOf('memory:') < stderr.indexOf('latents'), 'memory is told before anything is cached')
  assert.match(stderr, /2 images \((\d+×\d+: [12](, )?)+\), 3 steps; \d+ modules, [\d,]+ parameters/)
  assert.match(stderr, /step 3\/3 {2}loss \d\.\d{4} \(average \d\.\d{4}\) {2}\d+\.\d\d s(teps\/s|\/step) {2}ETA 0:00 {2}\d/)
  assert.ok(!stderr.includes('\r') && !stderr.includes('\x1b'), 'no redrawing without a terminal')
  const curve = await sharp(await readFile(join(output, 'style-loss.png'))).metadata()
  assert.deepEqual([curve.format, curve.width, curve.height], ['png', 960, 480])
  assert.ok((await readdir(output)).every((name) => !name.includes('.tmp-')))
})

test('with --json every event is a line on stdout and stderr is empty', async (t) => {
  const { folder, words } = await place(t)
  const curve = join(folder, 'new', 'loss.png')
  const { code, stdout, stderr } = await lorafuse([...words, '--steps', '3', '--json', '--loss-curve', curve])
  assert.equal(code, 0, stdout)
  assert.equal(stderr, '')
  const events = eventsOf(stdout)
  const steps = events.flatMap((event) => (event.type === 'step' ? [event.step] : []))
  assert.deepEqual(steps, [1, 2, 3])
  assert.equal(events.at(-1)?.type, 'done')
  assert.ok(events.some(({ type }) => type === 'start'))
  await readFile(curve)
})

test('Ctrl-C finishes the step, saves the state and says how to go on; that ends in the same bits', async (t) => {
  const { output, words } = await place(t)
  const run = [...words, '--steps', '40', '--save-every', '0']
  let sent = false
  const stopped = await lorafuse([...run, '--json'], {
    onOutput: (text, kill) => {
      if (!sent && text.includes('"type":"step"')) kill('SIGINT')
      sent ||= text.includes('"type":"step"')
    },
  })
  assert.equal(stopped.code, 130, stopped.stdout + stopped.stderr)
  assert.match(stopped.stderr, /^Stopping after the current step/)
  const last = eventsOf(stopped.stdout).at(-1) as unknown as { type: string; step: number; statePath: string }
  assert.equal(last.type, 'interrupted')
  assert.ok(last.step >= 1 && last.step < 40)
  await readFile(last.statePath)
  const resumed = await lorafuse([...run, '--resume'])
  assert.equal(resumed.code, 0, resumed.stderr)
  assert.match(resumed.stderr, new RegExp(`40 steps, from step ${last.step};`))
  const first = await readFile(join(output, 'style.safetensors'))
  const whole = await lorafuse(replaced(run, '--output', `${output}-whole`))
  assert.equal(whole.code, 0, whole.stderr)
  const tensors = (file: Buffer) => file.subarray(8 + Number(file.readBigUInt64LE()))
  assert.ok(tensors(await readFile(join(`${output}-whole`, 'style.safetensors'))).equals(tensors(first)))
})

test('without --json the line that goes on can be pasted into a shell', async (t) => {
  const { words } = await place(t)
  let sent = false
  const { code, stdout, stderr } = await lorafuse([...words, '--steps', '1000', '--save-every', '1'], {
    onOutput: (text, kill) => {
      if (!sent && text.includes('saved ')) kill('SIGTERM')
      sent ||= text.includes('saved ')
    },
  })
  assert.equal(code, 143, stderr)
  assert.equal(stdout, '')
  assert.match(
    stderr,
    /\nStopped after step \d+; its state is saved in .*\.state\. Resume with:\n {2}lorafuse train --model .* --save-every 1 --resume\n$/,
  )
})

test('a terminal that closes, which may send more than one signal, ends a training as SIGTERM does', onlyLong, async (t) => {
  const { output, words } = await place(t)
  let sent = 0
  const { code, signal, stderr } = await lorafuse([...words, '--steps', '100000', '--json'], {
    onOutput: (text, kill) => {
      if (sent < 2 && text.includes('"type":"step"')) {
        kill('SIGHUP')
        sent += 1
      }
    },
  })
  assert.deepEqual([code, signal], [129, null], stderr)
  assert.ok((await readdir(output)).some((name) => name.endsWith('.state')))
})

test('a loss curve that cannot be written is a warning: the LoRA has been written', async (t) => {
  const { folder, output, words } = await place(t)
  await writeFile(join(folder, 'file'), '')
  const curve = ['--loss-curve', join(folder, 'file', 'loss.png')]
  const { code, stdout, stderr } = await lorafuse([...words, '--steps', '1', ...curve])
  assert.deepEqual([code, stdout], [0, `${join(output, 'style.safetensors')}\n`])
  assert.match(
    stderr,
    /\nwarning NO_LOSS_CURVE: The loss curve is not drawn: Expected to be able to write .*loss\.png but received a path that /,
  )
  const json = await lorafuse([...words, '--steps', '1', '--json', ...curve])
  assert.equal(json.code, 0)
  assert.equal((eventsOf(json.stdout).at(-1) as { code?: string }).code, 'NO_LOSS_CURVE')
})

test('plan draws the memory of a step', async (t) => {
  const path = join(await temporaryFolder(t), 'new', 'memory.svg')
  const words = ['plan', '--model', tiny, '--image-count', '2', '--resolution', '64', '--device', 'cpu', '--picture', path]
  const { code, stderr } = await lorafuse(words)
  assert.deepEqual([code, stderr], [0, ''])
  assert.match(await readFile(path, 'utf8'), /^<svg .*>memory \(MiB\)<.*<\/svg>/s)
})

test('bench measures, prints and keeps its rows', async (t) => {
  const folder = await temporaryFolder(t)
  const [csv, picture] = [join(folder, 'rows.csv'), join(folder, 'new', 'rows.png')]
  const grid = ['--rank', '2', '--resolution', '64', '--batch-size', '1', '--gradient-checkpointing', 'on', '--steps', '1']
  const { code, stdout, stderr } = await lorafuse([
    'bench',
    '--model',
    tiny,
    '--device',
    'cpu',
    ...grid,
    '--csv',
    csv,
    '--picture',
    picture,
  ])
  assert.equal(code, 0, stderr)
  assert.match(stdout, /^ {2}rank .*\n {2}2 +default +64 +1 +on +\d+ MiB /)
  assert.match(stderr, /^row 1\/1 /)
  assert.match(await readFile(csv, 'utf8'), /^rank,targets,.*\r\n2,default,64,1,true,measured,/)
  assert.equal((await sharp(picture).metadata()).width, 1200)
})

test('with few files that may be open it says so', async (t) => {
  const { words } = await place(t)
  for (const [limit, more, expected] of [
    [40, [], /^error TOO_MANY_FILES: Expected to open more than 40 files but that is the limit; raise it with ulimit -n\n1\n$/],
    [20, ['--json'], /^\{"type":"error","code":"TOO_MANY_FILES","message":"Expected to open more than 20 files.*"\}\n1\n$/],
  ] as const) {
    const { stdout } = await inBash(`ulimit -n ${limit}; "$0" "$@" 2>&1; echo $?`, [...words, ...more])
    assert.match(stdout, expected)
  }
})

test('words whose bytes are no UTF-8 are refused, as Node would make another name of them', async (t) => {
  const { folder, words } = await place(t)
  const run = (bytes: string) =>
    inBash(`"$0" "$@" --output "${folder}/$(printf '${bytes}')" --steps 1 2>&1; echo $?`, without(words, '--output'))
  const { stdout } = await run('caf\\351')
  assert.match(stdout, /^error OPTION_INVALID: Expected UTF-8 after "--output" but received the bytes \S*caf\\xe9; rename it\n1\n$/)
  assert.deepEqual((await readdir(folder)).sort(), ['images'])
  await run('caf\\303\\251')
  await run('odd\\357\\277\\275')
  assert.deepEqual((await readdir(folder)).sort(), ['café', 'images', 'odd\ufffd'])
})

test('a second Ctrl-C kills at once', onlyLong, async (t) => {
  const { words } = await place(t)
  let signals = 0
  const { code, signal } = await lorafuse([...replaced(words, '--resolution', '256'), '--steps', '100000', '--json'], {
    onOutput: (text, kill) => {
      const due = signals === 0 ? text.includes('"type":"step"') : signals === 1 && text.includes('Stopping')
      if (!due) return
      signals += 1
      kill('SIGINT')
    },
  })
  // The current step may have ended in between.
  assert.ok(signal === 'SIGINT' || code === 130, `${code} ${signal}`)
})

test('when nobody reads its output any more it stops as for Ctrl-C, quietly', onlyLong, async (t) => {
  const { output, words } = await place(t)
  const script = 'set -o pipefail; "$0" "$@" | grep -m1 \'"type":"step"\' >/dev/null; echo $?'
  const { stdout, stderr } = await inBash(script, [...words, '--steps', '100000', '--json'])
  assert.equal(stdout, '141\n')
  assert.equal(stderr, '')
  assert.ok((await readdir(output)).some((name) => name.endsWith('.state')))
})

test('a full disk behind stdout ends a training with one sentence', async (t) => {
  const { words } = await place(t)
  const script = '"$0" "$@" >/dev/full; echo $?'
  const { stdout, stderr } = await inBash(script, [...words, '--steps', '100000', '--json'])
  assert.equal(stdout, '1\n')
  assert.equal(stderr, 'error OUTPUT_NOT_WRITABLE: Expected to be able to write to stdout but received ENOSPC\n')
})

test('Ctrl-C ends a picture with exit code 130 and no file', async (t) => {
  const folder = await temporaryFolder(t)
  let sent = false
  const words = ['generate', '--model', tiny, '--prompt', 'a cat', '--steps', '1000', '--output', join(folder, 'x.png'), '--json']
  const { code, stderr } = await lorafuse(words, {
    onOutput: (_, kill) => {
      if (!sent) kill('SIGINT')
      sent = true
    },
  })
  assert.equal(code, 130, stderr)
  assert.deepEqual(await readdir(folder), [])
})

test('what was trained draws', async (t) => {
  const { folder, output, words } = await place(t)
  await lorafuse([...words, '--steps', '2', '--learning-rate', '0.01'])
  const picture = join(folder, 'x.png')
  const lora = `${join(output, 'style')}:0.8`
  const drawn = await lorafuse([
    'generate',
    '--model',
    tiny,
    '--prompt',
    'a cat',
    '--lora',
    lora,
    '--steps',
    '2',
    '--output',
    picture,
    '--compare',
  ])
  assert.deepEqual(drawn, { code: 0, signal: null, stdout: `${picture}\n`, stderr: drawn.stderr })
  assert.match(drawn.stderr, /image 1\/2 {2}step 1\/2\n/)
  assert.deepEqual((await sharp(picture).metadata()).width, 258)
})

test('bad input ends in one sentence, exit code 1 and nothing written', async (t) => {
  const { folder, output, words } = await place(t)
  for (const [change, code] of [
    [['--images', join(folder, 'none')], 'IMAGES_NOT_FOUND'],
    [['--model', join(folder, 'none')], 'MODEL_NOT_FOUND'],
    [['--rank', '4000'], 'RANK_TOO_LARGE'],
    [['--resume', join(folder, 'none.safetensors')], ''],
    [['--resume', folder], 'FILE_UNREADABLE'],
  ] as const) {
    const { code: exit, stderr, stdout } = await lorafuse([...replaced(words, change[0], change[1]), '--steps', '1'])
    assert.equal(exit, 1)
    assert.match(stderr, new RegExp(`^(warning .*\\n)*error ${code}[A-Z_]*: Expected .*\\n$`), stderr)
    assert.equal(stdout, '')
  }
  assert.deepEqual(await readdir(output).catch(() => []), [])
})

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { test } from 'node:test'
import { parseArguments, quote, without } from '../../lib/arguments.js'
import { commandLine, generateTable, trainTable } from '../../lib/options.js'

const table = { ...trainTable, ...commandLine.train }
const train = (...words: string[]) => parseArguments('train', table, words)

function refuses(words: string[], code: string, message: string | RegExp): void {
  assert.throws(() => train(...words), { name: 'LorafuseError', code, message })
}

test('values follow an option or an equals sign', () => {
  const { values } = train('--rank', '8', '--learning-rate=5e-4', '--name', 'a b', '--output=x=y')
  assert.deepEqual(values, { rank: 8, learningRate: 5e-4, name: 'a b', output: 'x=y' })
})

test('flags need no value and can be turned off', () => {
  assert.deepEqual(train('--flip', '--no-buckets', '--strict=false', '-h').values, {
    flip: true,
    buckets: false,
    strict: false,
    help: true,
  })
  refuses(['--no-flip=true'], 'OPTION_INVALID', 'Expected no value for --no-flip but received "true"')
})

test("kohya's command line is understood", () => {
  const words =
    '--pretrained_model_name_or_path=m --train_data_dir=i --output_dir=o --output_name=n --resolution=512,512 --network_dim=32 --network_alpha=16 ' +
    '--max_train_steps=100 --train_batch_size=2 --learning_rate=1e-4 --lr_scheduler=cosine --lr_warmup_steps=10 --save_every_n_steps=50 ' +
    '--mixed_precision=bf16 --save_precision=float --seed=42 --enable_bucket --bucket_no_upscale --flip_aug --caption_extension=.txt --clip_skip=2'
  assert.deepEqual(train(...words.split(' ')).values, {
    ...{
      model: 'm',
      images: 'i',
      output: 'o',
      name: 'n',
      resolution: 512,
      rank: 32,
      alpha: 16,
      steps: 100,
      batchSize: 2,
      learningRate: 1e-4,
    },
    ...{ lrScheduler: 'cosine', lrWarmupSteps: 10, saveEvery: 50, precision: 'bf16', savePrecision: 'float', seed: 42, buckets: true },
    ...{ bucketNoUpscale: true, flip: true, captionExtension: '.txt', clipSkip: 2 },
  })
})

test('resume goes from the newest state, or from one that is named', () => {
  assert.deepEqual(train('--resume').values, { resume: true })
  assert.deepEqual(train('--resume', '--rank', '4').values, { resume: true, rank: 4 })
  assert.deepEqual(train('--resume', 'a-state.safetensors').values, { resume: 'a-state.safetensors' })
})

test('the last of a repeated option counts, lists add up', () => {
  assert.deepEqual(train('--rank', '4', '--network_dim', '8').values, { rank: 8 })
  const { values } = parseArguments('generate', generateTable, ['--lora', 'a', '--lora', 'b:0.5', '--prompt', 'x'])
  assert.deepEqual(values, { lora: ['a', 'b:0.5'], prompt: ['x'] })
})

test('negative numbers are values, words with two dashes are not', () => {
  assert.deepEqual(train('--seed', '-1').values, { seed: -1 })
  refuses(['--name', '--rank', '4'], 'OPTION_INVALID', 'Expected a file name without folder for --name but received none')
  assert.deepEqual(train('--name=--odd').values, { name: '--odd' })
})

test('what is no number is left for the check to name', () => {
  assert.deepEqual(train('--rank', 'four', '--steps=', '--resolution', '512,768').values, {
    rank: 'four',
    steps: '',
    resolution: '512,768',
  })
})

test('an unknown option is refused with the nearest, by either name', () => {
  refuses(['--rnak', '4'], 'OPTION_UNKNOWN', 'Expected an option of train but received --rnak; did you mean --rank?')
  refuses(['--network_dims', '4'], 'OPTION_UNKNOWN', /did you mean --network_dim\?$/)
  refuses(['--xyzzy'], 'OPTION_UNKNOWN', 'Expected an option of train but received --xyzzy')
  refuses(['photo.png'], 'OPTION_INVALID', 'Expected options of train but received the word "photo.png"')
  refuses(['--flip', 'yes'], 'OPTION_INVALID', /received the word "yes"$/)
})

test('errors name an option as it was typed', () => {
  const { label } = train('--network_dim', '0', '--batch-size', '1')
  assert.deepEqual(['rank', 'batchSize', 'saveEvery'].map(label), ['--network_dim', '--batch-size', '--save-every'])
})

test('a quoted command line is read back by a shell as it was', () => {
  const words = ['plain', "it's", 'a b', '$HOME', '', '--lora=x:0.8', 'é*', 'line\nbreak']
  const echoed = execFileSync('sh', ['-c', `for word in ${quote(words)}; do printf '%s\\0' "$word"; done`], { encoding: 'utf8' })
  assert.deepEqual(echoed.split('\0').slice(0, -1), words)
})

test('an option is taken out with its value', () => {
  assert.deepEqual(without(['--a', '1', '--resume', 'x', '--b'], '--resume'), ['--a', '1', '--b'])
  assert.deepEqual(without(['--resume', '--b', '--resume=y', 'c'], '--resume'), ['--b', 'c'])
})

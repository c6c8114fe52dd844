import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { test } from 'node:test'
import { parseArguments } from '../../../lib/cli/arguments.js'
import type { Arguments } from '../../../lib/cli/command.js'
import { commands } from '../../../lib/cli/commands.js'
import { quote, without } from '../../../lib/cli/shell.js'

function read(...words: string[]): Arguments {
  const found = parseArguments(commands, words)
  assert.ok(found)
  return found
}

const train = (...words: string[]) => read('train', ...words)
const generate = (...words: string[]) => read('generate', ...words)

function refuses(words: string[], code: string, message: string | RegExp): void {
  assert.throws(() => train(...words), { name: 'LorafuseError', code, message })
}

test('values follow an option or an equals sign', () => {
  const { values } = train('--rank', '8', '--learning-rate=5e-4', '--name', 'a b', '--output=x=y')
  assert.deepEqual(values, { rank: 8, learningRate: 5e-4, name: 'a b', output: 'x=y' })
})

test('flags need no value and can be turned off', () => {
  assert.deepEqual(train('--flip', '--no-buckets', '--strict=false', '--help=false').values, {
    flip: true,
    buckets: false,
    strict: false,
    help: false,
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

test("kohya's network arguments are options of their own", () => {
  assert.deepEqual(train('--network_args', 'conv_dim=4', 'conv_alpha=1', '--network_dim', '8').values, {
    rank: 8,
    convRank: 4,
    convAlpha: 1,
  })
  assert.deepEqual(train('--network_args=conv_dim=4', '--conv-alpha', '2').values, { convRank: 4, convAlpha: 2 })
  assert.deepEqual(train('--network_args', '--flip').values, { flip: true })
  const others = (name: string) => `--network_args ${name}; not supported: network_args are conv_dim=N and conv_alpha=X alone`
  const expected = 'Expected an option of train but received'
  refuses(['--network_args', 'conv_dim=4', 'dropout=0.1'], 'OPTION_UNKNOWN', `${expected} ${others('dropout')}`)
  refuses(['--network_args', 'conv_dim'], 'OPTION_UNKNOWN', `${expected} ${others('conv_dim')}`)
  assert.throws(() => generate('--network_args', 'conv_dim=4'), { code: 'OPTION_UNKNOWN', message: /received --network_args/ })
})

test("what a command line of kohya's has that is none here is told all at once, with what to do instead", () => {
  const words =
    '--pretrained_model_name_or_path=m --train_data_dir=i --network_module=networks.lora --network_dim=32 --network_args conv_dim=8 rank_dropout=0.1 ' +
    '--optimizer_type AdamW8bit --optimizer_args weight_decay=0.1 betas=0.9,0.99 --unet_lr 1e-4 --text_encoder_lr1 1e-5 --text_encoder_lr2 1e-5 ' +
    '--mixed_precision bf16 --xformers --sdpa --cache_latents --cache_latents_to_disk --save_model_as safetensors --min_snr_gamma 5'
  refuses(
    words.split(' '),
    'OPTION_UNKNOWN',
    [
      'Expected options of train but received 13 that it does not have:',
      '--network_module; leave it out: what is trained is a LoRA, as by networks.lora',
      '--network_args rank_dropout; not supported: network_args are conv_dim=N and conv_alpha=X alone',
      '--optimizer_type; leave it out: the optimizer is AdamW',
      '--optimizer_args; use --weight-decay',
      '--unet_lr; use --learning-rate',
      '--text_encoder_lr1; use --text-encoder-lr and both rates after it',
      '--text_encoder_lr2; use --text-encoder-lr and both rates after it',
      "--xformers; leave it out: attention's scores are never in memory as a whole",
      "--sdpa; leave it out: attention's scores are never in memory as a whole",
      '--cache_latents; leave it out: latents and text embeddings are computed once and held in memory',
      '--cache_latents_to_disk; leave it out: latents and text embeddings are computed once and held in memory',
      '--save_model_as; leave it out: files are safetensors',
      '--min_snr_gamma; not supported: the loss is the plain mean squared error',
    ].join('\n  '),
  )
})

test('resume goes from the newest state, or from one that is named', () => {
  assert.deepEqual(train('--resume').values, { resume: true })
  assert.deepEqual(train('--resume', '--rank', '4').values, { resume: true, rank: 4 })
  assert.deepEqual(train('--resume', 'a-state.safetensors').values, { resume: 'a-state.safetensors' })
})

test('an option that is given twice is refused with both, lists add up', () => {
  refuses(['--network_dim=8', '--rank', '4'], 'OPTION_INVALID', 'Expected --rank once but received --network_dim=8 and --rank 4')
  refuses(['--images', 'k', '--images', 'p'], 'OPTION_INVALID', 'Expected --images once but received --images k and --images p')
  refuses(['--flip', '--no-flip'], 'OPTION_INVALID', 'Expected --flip once but received --flip and --no-flip')
  refuses(['--resume', '--resume', 'x'], 'OPTION_INVALID', 'Expected --resume once but received --resume and --resume x')
  const rank = '--conv-rank'
  refuses(['--network_args', 'conv_dim=4', rank, '8'], 'OPTION_INVALID', `Expected ${rank} once but received ${rank}=4 and ${rank} 8`)
  const { values } = generate('--lora', 'a', '--lora', 'b:0.5', '--prompt', 'x')
  assert.deepEqual(values, { lora: ['a', 'b:0.5'], prompt: ['x'] })
})

test('negative numbers are values, words with two dashes are not', () => {
  assert.deepEqual(train('--seed', '-1').values, { seed: -1 })
  refuses(
    ['--name', '--rank', '4'],
    'OPTION_INVALID',
    'Expected a file name without folder and without .safetensors for --name but received none',
  )
  assert.deepEqual(train('--name=--odd').values, { name: '--odd' })
  assert.deepEqual(generate('--cfg', '-1', '--negative-prompt', '-x').values, { cfg: -1, negativePrompt: '-x' })
  assert.deepEqual(generate('--negative-prompt=--x', '--prompt=').values, { negativePrompt: '--x', prompt: [''] })
})

test('a word is a value even where it names a command or an option', () => {
  assert.deepEqual(generate('--prompt', 'help', '--prompt', 'train', '--prompt', 'seed').values, { prompt: ['help', 'train', 'seed'] })
})

test('a value is refused for a switch and none for what needs one, by the name that was typed', () => {
  refuses(['--flip_aug=maybe'], 'OPTION_INVALID', 'Expected true or false for --flip_aug but received "maybe"')
  refuses(['--strict='], 'OPTION_INVALID', 'Expected true or false for --strict but received an empty text')
  refuses(['--network_dim'], 'OPTION_INVALID', 'Expected a whole number from 1 to 4096 for --network_dim but received none')
  refuses(['--no-rank'], 'OPTION_UNKNOWN', /--no-rank; did you mean --rank\?$/)
  assert.deepEqual(train('--resume=').values, { resume: '' })
})

test('what is no number, or none of the words, is left for the check to name', () => {
  assert.deepEqual(train('--mixed_precision', 'f64').values, { precision: 'f64' })
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
  refuses(['--rank', '3', '4'], 'OPTION_INVALID', /received the word "4"$/)
  refuses(['-rank', '3'], 'OPTION_INVALID', /received the word "-rank"$/)
  refuses(['--', 'x'], 'OPTION_INVALID', /received the word "--"$/)
  refuses(['--name', '--rnak', '4'], 'OPTION_UNKNOWN', /received --rnak; did you mean --rank\?$/)
  for (const name of ['__proto__', 'constructor', 'a.b', '-x', 'bucketMin', 'version']) {
    refuses([`--${name}`, '1'], 'OPTION_UNKNOWN', new RegExp(`received --${name}`))
  }
})

test('errors name an option as it was typed', () => {
  const { label } = train('--network_dim', '0', '--batch-size', '1')
  const names = ['rank', 'batchSize', 'saveEvery', 'constructor']
  assert.deepEqual(names.map(label), ['--network_dim', '--batch-size', '--save-every', '--constructor'])
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

test('words of any length make a short sentence', () => {
  const long = 'x'.repeat(100_000)
  for (const words of [[long], [`--${long}`], [`--${long}=1`], ['--', long], [`-${long}`]]) {
    assert.throws(
      () => train(...words),
      (error: Error) => error.name === 'LorafuseError' && error.message.length < 400,
    )
  }
  assert.throws(
    () => read(long),
    (error: Error) => error.name === 'LorafuseError' && error.message.length < 400,
  )
})

test("all of kohya's options that are none here are named at once, with what to do instead", () => {
  const line = [
    '--network_module',
    'networks.lora',
    '--xformers',
    '--mixed_precision=fp16',
    '--unet_lr',
    '1e-4',
    '--rnak',
    '4',
    '--xformers',
    '--zzzzz',
  ]
  refuses(
    line,
    'OPTION_UNKNOWN',
    'Expected options of train but received 5 that it does not have:\n' +
      '  --network_module; leave it out: what is trained is a LoRA, as by networks.lora\n' +
      "  --xformers; leave it out: attention's scores are never in memory as a whole\n" +
      '  --unet_lr; use --learning-rate\n' +
      '  --rnak; did you mean --rank?\n' +
      '  --zzzzz',
  )
  refuses(['--unet_lr=1'], 'OPTION_UNKNOWN', 'Expected an option of train but received --unet_lr; use --learning-rate')
})

test('what other tools call the options of generate is named with what it is here', () => {
  const meant: Record<string, string> = {
    ...{ guidance_scale: 'cfg', cfg_scale: 'cfg', num_inference_steps: 'steps', scheduler: 'sampler', sampler_name: 'sampler' },
    ...{ negative: 'negative-prompt', neg_prompt: 'negative-prompt', n: 'negative-prompt', W: 'width', H: 'height' },
    'guidance-scale': 'cfg',
  }
  for (const [name, option] of Object.entries(meant)) {
    const message = `Expected an option of generate but received --${name}; use --${option}`
    assert.throws(() => generate(`--${name}`, '1'), { code: 'OPTION_UNKNOWN', message })
  }
  const learningRate = 'Expected an option of train but received --lr; use --learning-rate'
  refuses(['--lr', '1e-4'], 'OPTION_UNKNOWN', learningRate)
  assert.throws(() => read('plan', '--lr', '1e-4'), { message: learningRate.replace('train', 'plan') })
})

test('as many unknown options as kohya has are all named', () => {
  const names = Array.from({ length: 60 }, (_, i) => `--zzzzz${i}`)
  refuses(names, 'OPTION_UNKNOWN', ['Expected options of train but received 60 that it does not have:', ...names].join('\n  '))
})

test('several values may follow an option that takes them', () => {
  assert.deepEqual(train('--text_encoder_lr', '5e-5', '1e-5', '--rank', '4').values, { textEncoderLr: [5e-5, 1e-5], rank: 4 })
  assert.deepEqual(train('--text-encoder-lr=5e-5', '--network_train_text_encoder_only').values, {
    textEncoderLr: [5e-5],
    networkTrainTextEncoderOnly: true,
  })
  assert.deepEqual(train('--text-encoder-lr', '5e-5', '--text-encoder-lr', '1e-5').values, { textEncoderLr: [5e-5, 1e-5] })
})

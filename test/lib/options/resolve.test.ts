import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { kebab, nearest, resolveGenerateOptions, resolveTrainOptions } from '../../../lib/options/resolve.js'
import type { Table } from '../../../lib/options/rows.js'
import { generateTable, trainTable } from '../../../lib/options/table.js'

const train = { model: 'model', images: 'images' }

function refuses(input: unknown, code: string, message: string | RegExp, resolve: (input: unknown) => unknown = resolveTrainOptions): void {
  assert.throws(() => resolve(input), { name: 'LorafuseError', code, message })
}

test('a model and a folder of images are enough', () => {
  const options = resolveTrainOptions(train)
  assert.equal(options.rank, 16)
  assert.equal(options.alpha, 16)
  assert.equal(options.learningRate, 1e-4)
  assert.equal(options.epochs, undefined)
  assert.deepEqual(options.background, [255, 255, 255])
  assert.ok(options.threads >= 1)
})

test('an alpha that f32 does not hold, and a path that is no text in UTF-8, are refused', () => {
  assert.throws(() => resolveTrainOptions({ ...train, alpha: 1e-50 }), {
    code: 'OPTION_INVALID',
    message: /0 or at least 1e-37, .* received 1e-50$/,
  })
  for (const name of ['output', 'name', 'images'] as const) {
    assert.throws(() => resolveTrainOptions({ ...train, [name]: 'a\ud800' }), { code: 'OPTION_INVALID' })
    assert.throws(() => resolveTrainOptions({ ...train, [name]: 'a\0' }), { code: 'OPTION_INVALID' })
  }
  assert.equal(resolveTrainOptions({ ...train, output: 'a😀' }).output, 'a😀')
})

test('alpha is the rank where it is left out or 0', () => {
  assert.equal(resolveTrainOptions({ ...train, rank: 4 }).alpha, 4)
  assert.equal(resolveTrainOptions({ ...train, rank: 4, alpha: 0 }).alpha, 4)
  assert.equal(resolveTrainOptions({ ...train, rank: 4, alpha: 1 }).alpha, 1)
})

test('convolutions have a rank and an alpha of their own, or no LoRA', () => {
  const of = (more: object) => {
    const { convRank, convAlpha } = resolveTrainOptions({ ...train, ...more })
    return [convRank, convAlpha]
  }
  assert.deepEqual(of({}), [undefined, undefined])
  assert.deepEqual(of({ convRank: 4 }), [4, 4])
  assert.deepEqual(of({ convRank: 4, convAlpha: 0 }), [4, 4])
  assert.deepEqual(of({ convRank: 4, convAlpha: 1 }), [4, 1])
  refuses({ ...train, convAlpha: 1 }, 'OPTION_INVALID', 'Expected convRank beside convAlpha but received none')
  refuses({ ...train, convRank: 4, convAlpha: 1e-50 }, 'OPTION_INVALID', /for convAlpha but received 1e-50$/)
})

test('undefined counts as left out, null does not', () => {
  assert.equal(resolveTrainOptions({ ...train, steps: undefined }).steps, 1600)
  refuses({ ...train, steps: null }, 'OPTION_INVALID', 'Expected a whole number of 1 or more for steps but received null')
})

test('the largest batch is the largest that the core takes', () => {
  assert.equal(resolveTrainOptions({ ...train, batchSize: 1024 }).batchSize, 1024)
  refuses({ ...train, batchSize: 1025 }, 'OPTION_INVALID', 'Expected a whole number from 1 to 1024 for batchSize but received 1025')
})

test('a missing option is named', () => {
  refuses({ model: 'model' }, 'OPTION_REQUIRED', 'Expected a path for images but received none')
  refuses({ model: 'model', prompt: [] }, 'OPTION_REQUIRED', /for prompt but received none/, resolveGenerateOptions)
  refuses(undefined, 'OPTION_INVALID', 'Expected an object for the options of train but received undefined')
})

test('a mistyped option is refused with the nearest name', () => {
  refuses({ ...train, rnak: 4 }, 'OPTION_UNKNOWN', 'Expected an option of train but received rnak; did you mean rank?')
  refuses({ ...train, unet_lr: 1 }, 'OPTION_UNKNOWN', 'Expected an option of train but received unet_lr; use learningRate')
  refuses({ ...train, a: 1, b: 2 }, 'OPTION_UNKNOWN', /2 that it does not have:\n {2}a.*\n {2}b/)
  refuses({ ...train, batch_size: 4 }, 'OPTION_UNKNOWN', /did you mean batchSize\?$/)
  refuses({ ...train, toString: 4 }, 'OPTION_UNKNOWN', 'Expected an option of train but received toString')
  refuses({ ...train, ['x'.repeat(1e6)]: 4 }, 'OPTION_UNKNOWN', `Expected an option of train but received ${'x'.repeat(80)}…`)
  assert.equal(nearest('learningrate', ['learningRate', 'lrScheduler']), 'learningRate')
  assert.equal(nearest('frobnicate', ['learningRate', 'rank']), undefined)
})

test('values outside their bounds are refused in one sentence', () => {
  refuses({ ...train, rank: 0 }, 'OPTION_INVALID', 'Expected a whole number from 1 to 4096 for rank but received 0')
  refuses({ ...train, rank: 1.5 }, 'OPTION_INVALID', /received 1\.5$/)
  refuses({ ...train, rank: '4' }, 'OPTION_INVALID', /received "4"$/)
  refuses({ ...train, rank: 4n }, 'OPTION_INVALID', /received 4n$/)
  refuses({ ...train, learningRate: Number.NaN }, 'OPTION_INVALID', 'Expected a number from 0 to 1 for learningRate but received NaN')
  refuses({ ...train, targets: 'all' }, 'OPTION_INVALID', 'Expected default or attention for targets but received "all"')
  refuses({ ...train, bucketStep: 12 }, 'OPTION_INVALID', /a multiple of 8 from 8 to 1024 for bucketStep/)
  refuses({ ...train, flip: 'yes' }, 'OPTION_INVALID', 'Expected true or false for flip but received "yes"')
  refuses({ ...train, steps: false }, 'OPTION_INVALID', /for steps but received false$/)
  refuses({ ...train, background: 'gren' }, 'OPTION_INVALID', /white, black or #rrggbb/)
  refuses({ ...train, output: '' }, 'OPTION_INVALID', 'Expected a path for output but received an empty text')
  for (const name of ['a/b', '..', 'a\\b', '\0', 'w.safetensors'])
    refuses({ ...train, name }, 'OPTION_INVALID', /a file name without folder/)
})

test('options that exclude each other are refused', () => {
  refuses({ ...train, steps: 1, epochs: 1 }, 'OPTION_INVALID', 'Expected steps or epochs but received both')
  refuses({ ...train, bucketMin: 512, bucketMax: 256 }, 'OPTION_INVALID', 'Expected at most bucketMax, 256, for bucketMin but received 512')
  refuses(
    { ...train, resolution: 96, bucketStep: 128 },
    'OPTION_INVALID',
    'Expected at most resolution, 96, for bucketStep but received 128',
  )
  assert.equal(resolveTrainOptions({ ...train, resolution: 64 }).bucketStep, 64)
})

test('errors name options as the caller writes them', () => {
  const label = (name: string) => `--${kebab(name)}`
  assert.throws(() => resolveTrainOptions({ ...train, batchSize: 0 }, label), { message: /for --batch-size but received 0$/ })
  assert.throws(() => resolveTrainOptions({ ...train, batchSiez: 1 }, label), {
    message: /received --batch-siez; did you mean --batch-size\?$/,
  })
})

test("kohya's words for precisions and schedules are understood", () => {
  assert.equal(resolveTrainOptions({ ...train, precision: 'no' as 'f32' }).precision, 'f32')
  assert.equal(resolveTrainOptions({ ...train, savePrecision: 'float' as 'f32' }).savePrecision, 'f32')
  assert.equal(resolveTrainOptions({ ...train, lrScheduler: 'constant_with_warmup' as 'constant' }).lrScheduler, 'constant')
  assert.equal(resolveTrainOptions({ ...train, device: 'gpu' as 'cuda' }).device, 'cuda')
})

test('samplers are known by other tools, too, and in whatever case', () => {
  const sampler = (name: string) => resolveGenerateOptions({ model: 'model', prompt: 'a cat', sampler: name }).sampler
  const same: [string, string[]][] = [
    ['Euler a', ['euler a', 'EULER_A', 'k_euler_a']],
    ['DDIM', ['ddim']],
    ['DPM++ 2M', ['dpm++2m', 'dpmsolver++']],
    ['DPM++ 2M Karras', ['dpm++_2m_karras', 'DPM++2M-Karras', 'k_dpmpp_2m_ka']],
  ]
  for (const [name, others] of same) for (const other of others) assert.equal(sampler(other), name)
  refuses(
    { model: 'model', prompt: 'x', sampler: 'Heun' },
    'OPTION_INVALID',
    /^Expected DDIM, Euler, .* for sampler/,
    resolveGenerateOptions,
  )
})

test('colours and LoRAs are read from their short forms', () => {
  assert.deepEqual(resolveTrainOptions({ ...train, background: '#0A80ff' }).background, [10, 128, 255])
  const lora = ['a.safetensors', 'b:0.8', 'c:d:-.5', { path: 'e:1', weight: 2 }]
  const options = resolveGenerateOptions({ model: 'model', prompt: 'a cat', lora })
  assert.deepEqual(options.lora, [
    { path: 'a.safetensors', weight: 1 },
    { path: 'b', weight: 0.8 },
    { path: 'c:d', weight: -0.5 },
    { path: 'e:1', weight: 2 },
  ])
  assert.deepEqual(options.prompt, ['a cat'])
  const weight =
    'Expected a LoRA file, or file:weight with a number as the weight, or a list of them for lora but received "w.safetensors:abc"'
  refuses({ model: 'model', prompt: 'x', lora: ['w.safetensors:abc'] }, 'OPTION_INVALID', weight, resolveGenerateOptions)
  refuses({ model: 'model', prompt: 'x', lora: [{}] }, 'OPTION_INVALID', /a LoRA file, or file:weight/, resolveGenerateOptions)
})

test('every row has help, and no two options of a command share a name', () => {
  for (const table of [trainTable, generateTable] as Table[]) {
    const names = Object.entries(table).flatMap(([name, { kohya = [] }]) => [kebab(name), ...kohya.filter((alias) => alias !== name)])
    assert.equal(new Set(names).size, names.length)
    for (const [name, { help }] of Object.entries(table)) assert.match(help, /^[\w<].{4,}[^.]$/, name)
  }
})

test('whatever is passed, the answer is options or an error with a code', () => {
  const names = [...Object.keys(trainTable), 'other']
  fc.assert(
    fc.property(fc.dictionary(fc.constantFrom(...names), fc.anything()), (input) => {
      try {
        resolveTrainOptions(input)
      } catch (error) {
        assert.match((error as { code: string }).code, /^OPTION_/)
      }
    }),
  )
})

test('names of any length make a short sentence, at once', () => {
  const long = 'x'.repeat(1_000_000)
  refuses({ [long]: 1 }, 'OPTION_UNKNOWN', `Expected an option of train but received ${'x'.repeat(80)}…`)
})

test('options of text encoders that contradict each other, or do nothing, are refused', () => {
  const both = (one: string, other: string) => `Expected ${one} or ${other} but received both`
  refuses({ ...train, networkTrainUnetOnly: true, textEncoderLr: 1e-5 }, 'OPTION_INVALID', both('networkTrainUnetOnly', 'textEncoderLr'))
  const only = { networkTrainUnetOnly: true, networkTrainTextEncoderOnly: true }
  refuses({ ...train, ...only }, 'OPTION_INVALID', both('networkTrainUnetOnly', 'networkTrainTextEncoderOnly'))
  const convolutions = { networkTrainTextEncoderOnly: true, convRank: 4 }
  refuses({ ...train, ...convolutions }, 'OPTION_INVALID', both('networkTrainTextEncoderOnly', 'convRank'))
  const stop = { ...train, stopTextEncoderTraining: 5 }
  const beside = 'Expected textEncoderLr above 0 beside stopTextEncoderTraining but received'
  refuses(stop, 'OPTION_INVALID', `${beside} none`)
  refuses({ ...stop, textEncoderLr: 0 }, 'OPTION_INVALID', `${beside} 0`)
  assert.equal(resolveTrainOptions({ ...train, networkTrainUnetOnly: true, textEncoderLr: 0 }).networkTrainUnetOnly, true)
  refuses({ ...stop, networkTrainTextEncoderOnly: true }, 'OPTION_INVALID', both('stopTextEncoderTraining', 'networkTrainTextEncoderOnly'))
  assert.deepEqual(resolveTrainOptions({ ...train, textEncoderLr: 1e-5 }).textEncoderLr, [1e-5])
  const expected = 'Expected a number from 0 to 1, or up to 2 of them for textEncoderLr but received'
  refuses({ ...train, textEncoderLr: [1e-5, 1e-5, 1e-5] }, 'OPTION_INVALID', `${expected} 0.00001 0.00001 0.00001`)
  refuses({ ...train, textEncoderLr: ['5e-5,1e-5'] }, 'OPTION_INVALID', `${expected} "5e-5,1e-5"`)
  refuses({ ...train, textEncoderLr: [] }, 'OPTION_INVALID', `${expected} []`)
})

// One process: trainings and pictures that succeed, are stopped at random events, resumed, and fail; memory, maps, threads, descriptors.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { generate, train, trainEvents } from '../../dist/lib/index.js'
import { native } from '../../dist/lib/native.js'
import { differs, freshFolder, makeImages, model, options, undisturbed } from './place.js'
import { grown, holdsAtRest, shown } from './process.js'
import { judgeError } from './rig.js'

const EVENTS = ['cache', 'start', 'step', 'step', 'checkpoint']
/** What the allocator does not give back at once. */
const SLACK = { memory: 2 ** 16, descriptors: 0 }

/** What went wrong in a call that must fail: with one of our errors, or by `name`. */
async function mustFail(call, name) {
  try {
    await call()
  } catch (error) {
    if (name) return error.name === name ? undefined : `${error.stack} instead of ${name}`
    return judgeError(error)
  }
  return 'a success that had to be an error'
}

/** Stops a training at a random event; resolves to what went wrong. */
async function stopped(given, random) {
  const controller = new AbortController()
  const [type, nth] = [random.pick(EVENTS), 1 + random.below(5)]
  let seen = 0
  const onEvent = (event) => {
    if (event.type === type && ++seen === nth) controller.abort()
  }
  try {
    await train(given, { signal: controller.signal, onEvent })
  } catch (error) {
    if (error.name !== 'AbortError') return `${error.stack} where the training was stopped`
  }
  return undefined
}

const picture = ({ output }, more = {}) => ({
  ...{
    model,
    prompt: 'a bell',
    lora: [join(output, 'x.safetensors')],
    steps: 2,
    width: 64,
    height: 64,
    threads: 1,
    device: 'cpu',
    ...more,
  },
})

/** An `onEvent` that fails must fail the training, in the same way. */
async function thrownBy(given, random, fail) {
  const [type, nth] = [random.pick(EVENTS), 1 + random.below(4)]
  let seen = 0
  const mine = new Error('mine')
  const onEvent = (event) => (event.type === type && ++seen === nth ? fail(mine) : undefined)
  try {
    await train(given, { onEvent })
  } catch (error) {
    return error === mine ? undefined : `${error.stack} instead of what onEvent threw`
  }
  return seen < nth ? undefined : `a success, though onEvent failed at ${type} ${nth}`
}

const kinds = {
  /** So many that what one of them leaves is more than the slack. */
  async calls() {
    const session = new (native().Session)({ device: 'cpu', threads: 1, precision: 'f32', networks: {} })
    try {
      for (let i = 0; i < 20_000; i++) await session.losses()
    } finally {
      session.dispose()
    }
    return undefined
  },

  async whole({ images, output, expected }) {
    await train(options(images, output, { threads: 2 }))
    return differs(output, expected.trajectory)
  },

  async stopped({ images, output, expected }, random) {
    for (let i = 0; i < 2; i++) {
      const problem = await stopped(options(images, output, { resume: i > 0, saveEvery: random.pick([0, 1]) }), random)
      if (problem) return problem
    }
    await train(options(images, output, { resume: true }))
    return differs(output, expected.trajectory)
  },

  async picture({ expected, drawn }) {
    const [{ png }] = await generate(picture(expected))
    return Buffer.compare(png, drawn) === 0 ? undefined : 'another picture than at the start'
  },

  async stoppedPicture({ expected }, random) {
    const controller = new AbortController()
    const nth = 1 + random.below(3)
    let seen = 0
    const onEvent = () => ++seen === nth && controller.abort()
    return mustFail(() => generate(picture(expected, { steps: 9 }), { signal: controller.signal, onEvent }), 'AbortError')
  },

  async badOptions({ images, output, expected }, random) {
    const change = random.pick([
      ...[{ rank: 0 }, { rank: 4096 }, { steps: -1 }, { resolution: 'x'.repeat(1e5) }, { rnak: 3 }, { seed: 2 ** 60 }, { clipSkip: 64 }],
      ...[{ bucketStep: 12 }, { learningRate: Number.NaN }, { alpha: null }, { model: '' }, { images: [] }, { device: 'tpu' }],
    ])
    return (
      (await mustFail(() => train(options(images, output, change)))) ??
      (await mustFail(() =>
        generate(picture(expected, random.pick([{ steps: 0 }, { width: 12 }, { lora: [3] }, { prompt: '<lora:x:y>' }]))),
      ))
    )
  },

  async badFiles({ folder, images, output, expected }, random) {
    const broken = join(folder, 'broken.safetensors')
    const bytes = readFileSync(join(expected.output, 'x.safetensors'))
    writeFileSync(broken, bytes.subarray(0, random.below(bytes.length)))
    const calls = [
      () => train(options(join(folder, 'none'), output)),
      () => train(options(images, output, { model: folder })),
      () => train(options(images, broken)),
      () => train(options(images, output, { resume: broken })),
      () => train(options(images, output, { resume: join(expected.output, 'x.safetensors') })),
      () => generate(picture(expected, { lora: [broken] })),
      () => generate(picture(expected, { model: images })),
      () => generate(picture(expected, { output: join(broken, 'x.png') })),
    ]
    return mustFail(random.pick(calls))
  },

  async left({ images, output, expected }, random) {
    const nth = random.below(12)
    let seen = 0
    for await (const _ of trainEvents(options(images, output))) if (seen++ === nth) break
    await train(options(images, output, { resume: true }))
    return differs(output, expected.trajectory)
  },

  thrown: ({ images, output }, random) =>
    thrownBy(options(images, output), random, (error) => {
      throw error
    }),

  rejected: ({ images, output }, random) => thrownBy(options(images, output), random, (error) => Promise.reject(error)),

  async beside({ folder, images, output, expected }) {
    const other = freshFolder(folder, 'beside')
    await Promise.all([train(options(images, output)), train(options(images, other, { threads: 2 }))])
    return (await differs(output, expected.trajectory)) ?? differs(other, expected.trajectory)
  },

  async rivals({ images, output, expected }) {
    const ends = await Promise.allSettled([1, 2].map((threads) => train(options(images, output, { threads }))))
    const failed = ends.filter(({ status }) => status === 'rejected')
    if (failed.length !== 1) return `${2 - failed.length} successes of two trainings with one name in one folder`
    return judgeError(failed[0].reason) ?? differs(output, expected.trajectory)
  },
}

/** An `onEvent` that rejects must reject the training; before it does, nobody else may hear of it. */
function hearRejections(context) {
  context.onRejection = (reason) => context.rejections.push(reason)
  process.on('unhandledRejection', context.onRejection)
}

export const soak = {
  name: 'soak',
  lanes: 1,
  short: 12,

  async begin(folder) {
    const images = await makeImages(folder)
    const expected = await undisturbed(folder, images)
    const [{ png: drawn }] = await generate(picture(expected))
    const context = { folder, images, expected, drawn, rejections: [] }
    hearRejections(context)
    return context
  },

  async round(context, index, random, count) {
    const names = Object.keys(kinds)
    // The allocators have what they need after each kind has been once.
    if (index === names.length) context.before = await holdsAtRest()
    const kind = names[index % names.length]
    count(kind)
    const output = freshFolder(context.folder, 'output')
    const problem = await kinds[kind]({ ...context, output }, random)
    const heard = context.rejections.splice(0)
    return problem ?? (heard.length > 0 ? `an unhandled rejection: ${heard[0]?.stack ?? heard[0]}` : undefined)
  },

  async end({ before, onRejection }, rounds) {
    process.off('unhandledRejection', onRejection)
    if (!before) return []
    const after = await holdsAtRest()
    console.log(`soak: at the start ${shown(before)}\nsoak: at the end   ${shown(after)}`)
    return grown(before, after, rounds - Object.keys(kinds).length, SLACK)
  },
}

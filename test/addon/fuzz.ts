/**
 * Calls every method of the addon with odd arguments: `node fuzz.js seed sessions`. Each call must answer or be refused by a documented code,
 * soon, and a session that was not disposed of must then still train. Prints what came as JSON; ends with 1 and the call on anything else.
 */
import { inspect } from 'node:util'
import type { LorafuseError } from '../../lib/errors.js'
import { readModel } from '../../lib/models/read.js'
import { type AdapterSpec, native, type Session, type SessionOptions } from '../../lib/native.js'
import { tiny } from '../fixtures/lora.js'
import { Oddities, randomFrom, thrown } from './odd-values.js'

const [seed = '1', sessions = '20'] = process.argv.slice(2)
const odd = new Oddities(randomFrom(Number(seed)))
const { networks } = await readModel(tiny)
const text = [{ network: 'text_encoder', skip: 0, norm: true, pooled: false }]
const options: SessionOptions = { device: 'cpu', threads: 2, precision: 'f32', networks, text }

const expected = new Set(
  ['ARGUMENT_INVALID', 'CONFIG_INVALID', 'SHAPE_MISMATCH', 'RANK_INVALID', 'MODULE_UNKNOWN', 'MODEL_INCOMPLETE', 'NO_ADAPTERS'].concat(
    ['OUT_OF_MEMORY', 'DISPOSED', 'BUSY', 'WEIGHT_MISSING', 'WEIGHT_SHAPE', 'WEIGHTS_TRUNCATED', 'FILE_NOT_FOUND', 'FILE_UNREADABLE'],
    ['BACKEND_MISSING', 'NO_DEVICE', 'NO_GRADIENT', 'NOT_SUPPORTED', 'PRECISION_UNSUPPORTED'],
  ),
)
const outcomes = new Map<string, number>()

function fail(what: string, call: string, args: unknown): never {
  process.stdout.write(`${what}: ${call} ${inspect(args, { depth: 6, maxStringLength: 200, maxArrayLength: 8, getters: false })}\n`)
  process.exit(1)
}

/** Counts how a call ended; everything but an answer and a documented refusal is a failure. */
async function call(name: string, args: unknown[], work: () => unknown): Promise<unknown> {
  let outcome = 'answered'
  let result: unknown
  const late = setTimeout(() => fail('no answer in 60 s', name, args), 60_000)
  const begin = performance.now()
  try {
    const answer = work()
    if (performance.now() - begin > 20_000) fail('the main thread stood still for 20 s', name, args)
    result = await answer
  } catch (error) {
    const { code, message } = error as LorafuseError
    outcome = code
    if (error !== thrown && !expected.has(code)) fail(`refused by ${inspect(error)}`, name, args)
    if (message.length > 2500) fail(`a sentence of ${message.length} characters`, name, args)
  }
  clearTimeout(late)
  outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1)
  return result
}

const open = () => new (native().Session)(options)
const floats = (...shape: number[]) => ({ shape, data: new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(0.1) })
const optimizer = { name: 'adamw', beta1: 0.9, beta2: 0.999, epsilon: 1e-8 }
const layers = (() => {
  const session = open()
  const all = session.layers('unet')
  session.dispose()
  return all.filter(({ path }) => path.includes('.attn1.'))
})()
const adapters = (): AdapterSpec[] =>
  layers.slice(0, 3).map(({ path }) => ({ network: 'unet', path, kind: 'lora', rank: 2, scale: 1, group: 0 }))
const { cross_attention_dim: dim } = networks.unet!.config as { cross_attention_dim: number }
const batch = () => ({
  ...{ latents: floats(1, 8, 8, 4), noise: floats(1, 8, 8, 4), coefficients: floats(1, 2), target_coefficients: floats(1, 2) },
  ...{ timesteps: floats(1), context: floats(1, 7, dim) },
})
const shapes = () => Object.fromEntries(Object.entries(batch()).map(([name, { shape }]) => [name, shape]))
const update = () => ({ groups: [{ learningRate: 1e-3, weightDecay: 0.01 }], maxGradNorm: 1, lossScale: 1, step: 1 })
const ids = () => ({ shape: [1, 77], data: new Int32Array(77).fill(5) })

/** Arguments that are right. */
const right: Record<Exclude<keyof Session, 'dispose'>, () => unknown[]> = {
  threads: () => [],
  layers: () => ['unet'],
  attach: () => [adapters(), optimizer],
  buffers: () => [],
  read: () => ['weights', new Float32Array(count)],
  write: () => ['weights', new Float32Array(count)],
  clear: () => ['gradients'],
  planStep: () => [shapes()],
  describeStep: () => [shapes()],
  fitStep: () => [shapes(), 2 ** 40, 1],
  planRun: () => ['text_encoder', 'encode', { ids: [1, 77] }, { skip: 1 }],
  availableBytes: () => [],
  speeds: () => [],
  run: () =>
    odd.of<() => unknown[]>([
      () => ['unet', 'predict', { latents: floats(1, 8, 8, 4), timesteps: floats(1), context: floats(1, 7, dim) }, {}],
      () => ['text_encoder', 'encode', { ids: ids() }, { skip: 1 }],
      () => ['vae', 'encode', { pixels: floats(1, 16, 16, 3) }],
      () => ['vae', 'decode', { latents: floats(1, 2, 2, 4) }],
    ])(),
  prepare: () => [shapes()],
  load: () => [batch()],
  step: () => [new Float32Array([1]), update()],
  profileStep: () => [new Float32Array([1]), update()],
  losses: () => [],
  norm: () => [],
}
let count = 0

type Method = (...args: unknown[]) => unknown
const invoke = (session: Session, name: keyof typeof right, args: unknown[]) => (session[name] as Method)(...args)

/** A session that was not disposed of trains as any other. */
async function stillTrains(session: Session, history: string[]): Promise<void> {
  try {
    await session.losses() // after what getters have called
    session.attach(adapters(), optimizer)
    await session.load(batch())
    await session.step(new Float32Array([1]), update())
    if (!((await session.losses()).length === 1 && Number.isFinite(await session.norm()))) fail('a step without a loss', 'after', history)
  } catch (error) {
    if ((error as LorafuseError).code !== 'DISPOSED') fail(`it trains no more: ${inspect(error)}`, 'after', history)
  }
}

const names = Object.keys(right) as (keyof typeof right)[]
let measured = false

/** A method; at most once `speeds`, which has no arguments and keeps the processor busy for a second. */
function method(): keyof typeof right {
  const name = odd.of(measured ? names.filter((each) => each !== 'speeds') : names)
  measured ||= name === 'speeds'
  return name
}

/** Opens a session with something odd in its options, in half of the cases in a config, and plans what it can compute if it opens. */
async function openOdd(): Promise<void> {
  const network = odd.of(Object.keys(networks))
  const [config] = odd.spoil([networks[network]!.config], undefined)
  const changed = { ...options, networks: { ...networks, [network]: { ...networks[network]!, config } } }
  const [given] = odd.below(2) ? [changed] : odd.spoil([options], undefined)
  const session = (await call('new Session', [given], () => new (native().Session)(given as SessionOptions))) as Session | undefined
  if (!session) return
  for (const name of ['layers', 'attach', 'planStep'] as const) await call(name, [config], () => invoke(session, name, right[name]()))
  if (odd.below(16) === 0) await call('prepare', [config], () => session.prepare(shapes()))
  await call('planRun', [config], () => session.planRun('vae', 'encode', { pixels: [1, 16, 16, 3] }))
  await call('planRun', [config], () => session.planRun('text_encoder', 'encode', { ids: [1, 77] }))
  session.dispose()
}

const disposed = () => outcomes.get('DISPOSED') ?? 0
for (let n = 0; n < Number(sessions); n++) {
  for (let i = 0; i < 15; i++) await openOdd()
  const session = open()
  count = session.attach(adapters(), optimizer).reduce((sum, { shape }) => sum + shape[0]! * shape[1]!, 0)
  const history: string[] = []
  const before = disposed()
  for (let i = 0; i < 20 && disposed() === before; i++) {
    // Some of them at once, so that calls wait for others.
    const calls = Array.from({ length: 1 + odd.below(4) }, () => {
      const name = method()
      const args = odd.below(8) > 0 && right[name]().length > 0 ? odd.spoil(right[name](), session) : right[name]()
      history.push(name)
      return call(name, args, () => invoke(session, name, args))
    })
    await Promise.all(calls)
  }
  await stillTrains(session, history)
  session.dispose()
}
process.stdout.write(JSON.stringify(Object.fromEntries(outcomes)))

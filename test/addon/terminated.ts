/**
 * Terminates Workers in the middle of their work: `node terminated.js seed rounds`. Prints as JSON what the process holds after a few of
 * them and at the end. `node terminated.js seed exit` works in the main thread and ends with 7 in the middle of it.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { isMainThread, parentPort, Worker } from 'node:worker_threads'
import { readModel } from '../../lib/models/read.js'
import { native } from '../../lib/native.js'
import { tiny } from '../fixtures/lora.js'
import { randomFrom } from './odd-values.js'

const floats = (...shape: number[]) => ({ shape, data: new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(0.1) })

/** Trains until it is terminated, with calls that wait behind the one that runs; calls `tell` once it has begun and after each step. */
async function work(tell: (what: 'opened' | 'step') => void): Promise<void> {
  const { networks } = await readModel(tiny)
  const { cross_attention_dim: dim } = networks.unet!.config as { cross_attention_dim: number }
  const session = new (native().Session)({ device: 'cpu', threads: 2, precision: 'f32', networks })
  const [layer] = session.layers('unet').filter(({ path }) => path.includes('.attn1.'))
  const optimizer = { name: 'adamw', beta1: 0.9, beta2: 0.999, epsilon: 1e-8 }
  session.attach([{ network: 'unet', path: layer!.path, kind: 'lora', rank: 2, scale: 1, group: 0 }], optimizer)
  const update = { groups: [{ learningRate: 1e-3, weightDecay: 0.01 }], maxGradNorm: 1, lossScale: 1, step: 1 }
  const batch = {
    ...{ latents: floats(1, 16, 16, 4), noise: floats(1, 16, 16, 4), coefficients: floats(1, 2), target_coefficients: floats(1, 2) },
    ...{ timesteps: floats(1), context: floats(1, 7, dim) },
  }
  tell('opened')
  for (;;) {
    const calls = [session.load(batch), session.step(new Float32Array([1]), update), session.norm(), session.losses()]
    await Promise.all(calls)
    tell('step')
  }
}

/** What a session takes of the process. */
function held() {
  const mapped = readFileSync('/proc/self/maps', 'utf8').match(/\.safetensors$/gm)?.length ?? 0
  return { mapped, threads: readdirSync('/proc/self/task').length, rss: process.memoryUsage.rss() }
}

async function terminate(rounds: number, random: () => number): Promise<void> {
  const path = fileURLToPath(import.meta.url)
  let early = held()
  for (let round = 0; round < rounds; round++) {
    const thread = new Worker(path)
    const failed = new Promise<never>((_, reject) => thread.on('error', reject))
    // Often just after a step's message, when the next call has begun.
    const moment = random() < 0.3 ? 'opened' : 'step'
    await Promise.race([new Promise<void>((resolve) => thread.on('message', (what) => what === moment && resolve())), failed])
    if (random() < 0.5) await sleep(20 * random())
    await thread.terminate()
    if (round === Math.floor(rounds / 3)) early = held()
  }
  process.stdout.write(JSON.stringify({ early, late: held() }))
}

const [seed = '1', rounds = '30'] = process.argv.slice(2)
const random = randomFrom(Number(seed))
if (!isMainThread) await work((what) => parentPort!.postMessage(what))
else if (rounds === 'exit') await work((what) => void (what === 'step' && setTimeout(() => process.exit(7), 20 * random())))
else await terminate(Number(rounds), random)

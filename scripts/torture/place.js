// A training of a fraction of a second, and what it must end with.
import { copyFileSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import sharp from 'sharp'
import { readTensors } from '../../dist/lib/files/safetensors.js'
import { train } from '../../dist/lib/index.js'
import { root } from './rig.js'

export const model = join(root, 'test/fixtures/golden-sd1/model')
export const cli = join(root, 'dist/lib/cli/cli.js')
const IMAGES = ['bell', 'fish', 'pizza']

/** Makes a folder anew. */
export function freshFolder(...parts) {
  const folder = join(...parts)
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  return folder
}

/** Makes three square images and a wide one, with captions, so that there are two buckets. */
export async function makeImages(folder) {
  const images = freshFolder(folder, 'images')
  for (const name of IMAGES)
    for (const kind of ['png', 'txt']) copyFileSync(join(root, `examples/emoji/${name}.${kind}`), join(images, `${name}.${kind}`))
  await sharp({ create: { width: 200, height: 90, channels: 3, background: 'red' } }).toFile(join(images, 'wide.png'))
  writeFileSync(join(images, 'wide.txt'), 'a red flag')
  return images
}

/** Options under which all that is random in a training is on, and every step is saved to the bit. */
export function options(images, output, more = {}) {
  return {
    ...{ model, images, output, name: 'x', resolution: 64, bucketMin: 32, bucketStep: 32, steps: 6, batchSize: 2, rank: 2 },
    ...{ learningRate: 1e-3, lrScheduler: 'cosine', flip: true, randomCrop: true, seed: 7, threads: 1, device: 'cpu' },
    ...{ saveEvery: 1, savePrecision: 'f32', ...more },
  }
}

/** The same as words of a command line. */
export function words(given) {
  const word = (name) => `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`
  return Object.entries(given).flatMap(([name, value]) => (value === true ? [word(name)] : [word(name), String(value)]))
}

/** The names of a folder's files, sub-folders included, without temporary ones. */
export function filesOf(folder) {
  return readdirSync(folder, { recursive: true }).filter((name) => !name.includes('.tmp-'))
}

/** The temporary files in a folder. */
export function temporaries(folder) {
  return readdirSync(folder, { recursive: true }).filter((name) => name.includes('.tmp-'))
}

/** Reads all whole files of tensors in a folder; throws if one is not whole. */
export async function readAll(folder) {
  const names = filesOf(folder).filter((name) => /\.(safetensors|state)$/.test(name))
  for (const name of names) await readTensors(join(folder, name))
  return names.length
}

async function bitsOf(path) {
  const tensors = await readTensors(path)
  return Buffer.concat([...tensors.values()].map(({ data }) => Buffer.from(data.buffer, data.byteOffset, data.byteLength)))
}

/** The LoRA of every step that a training saves, by its file's name. */
export async function trajectory(output) {
  const names = filesOf(output).filter((name) => /^x(-step\d+)?\.safetensors$/.test(name))
  return new Map(await Promise.all(names.map(async (name) => [name, await bitsOf(join(output, name))])))
}

/** What a folder's training saved that an undisturbed one would not have, or the other way round; undefined if nothing. */
export async function differs(output, expected, { complete = true } = {}) {
  const found = await trajectory(output)
  for (const [name, bits] of found) {
    if (!expected.has(name)) return `${name}, which an undisturbed run does not write`
    if (!expected.get(name).equals(bits)) return `other bits in ${name} than those of an undisturbed run`
  }
  if (complete && !found.has('x.safetensors')) return 'no LoRA at the end'
  return undefined
}

/** Trains once, undisturbed. */
export async function undisturbed(folder, images, more) {
  const output = freshFolder(folder, 'undisturbed')
  const result = await train(options(images, output, more))
  return { ...result, output, trajectory: await trajectory(output) }
}

/** Reads networks that stand apart from their model: a VAE, or text encoders. */
import { join, resolve } from 'node:path'
import { LorafuseError } from '../errors.js'
import { isFolder, listFolder } from '../files/read.js'
import { readCheckpoint } from './checkpoint.js'
import { readNetworkFolder } from './diffusers.js'
import { type HubContext, locateModel } from './hub.js'
import type { NetworkParts, ReadOptions } from './model.js'
import { networksIn } from './single-file.js'

type Networks = Record<string, NetworkParts>

/** The networks that an option may bring, and what it is in errors. */
const KINDS = {
  vae: { names: ['vae'], title: 'a VAE' },
  textEncoder: { names: ['text_encoder', 'text_encoder_2'], title: 'a text encoder' },
}
/** transformers' class of a text encoder whose pooled text is projected: SDXL's second. */
const PROJECTED = 'CLIPTextModelWithProjection'

/** Reads a network's own folder, or those of a model's folder. */
async function inFolder(folder: string, names: string[]): Promise<Networks> {
  const listed = await listFolder(folder, 'a folder of weights')
  const networks: Networks = {}
  if (!listed.includes('config.json')) {
    for (const name of names) if (listed.includes(name)) networks[name] = await readNetworkFolder(join(folder, name), name)
    return networks
  }
  const parts = await readNetworkFolder(folder, names[0]!)
  const { architectures } = parts.config.json
  const isSecond = names.length > 1 && Array.isArray(architectures) && architectures.includes(PROJECTED)
  return { [names[isSecond ? 1 : 0]!]: parts }
}

/**
 * Reads the networks that options name apart from the model, by the names of diffusers' folders. Throws `MODEL_NOT_FOUND`, and
 * `MODEL_INCOMPLETE` for a file or folder that holds none; else as `readModel`.
 */
export async function readComponents({ vae, textEncoder = [] }: ReadOptions, context: HubContext): Promise<Networks> {
  const asked = [
    ...(vae === undefined ? [] : [vae].map((path) => ({ path, ...KINDS.vae }))),
    ...textEncoder.map((path) => ({ path, ...KINDS.textEncoder })),
  ]
  const networks: Networks = {}
  for (const { path, names, title } of asked) {
    const place = resolve((await locateModel(path, context, true)).path)
    const isIn = await isFolder(place, title)
    if (isIn === undefined)
      throw new LorafuseError('MODEL_NOT_FOUND', `Expected ${title} at ${place} but received nothing: there is no such file`)
    const found = isIn ? await inFolder(place, names) : networksIn(await readCheckpoint(place, title))
    const fitting = names.filter((name) => found[name])
    if (fitting.length === 0)
      throw new LorafuseError('MODEL_INCOMPLETE', `Expected ${title} in ${place} but received none; name a file or folder that has it`)
    const added = fitting.filter((name) => !networks[name])
    if (added.length === 0)
      throw new LorafuseError('MODEL_UNSUPPORTED', `Expected ${title} once but received another at ${place}; name each network once`)
    for (const name of added) networks[name] = found[name]!
  }
  return networks
}
